"""Verbs: what a user does; each combines a view with members of families."""
