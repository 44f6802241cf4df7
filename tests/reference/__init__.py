"""Naive float64 references: slow, direct, written from the formulas alone."""
