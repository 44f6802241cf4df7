"""Initialisation: what re-initialisation does to each part of a network, and doing it."""
