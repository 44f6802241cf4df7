"""Pruning: from scores to a mask, masks for other networks, and optimizers that keep a mask."""
