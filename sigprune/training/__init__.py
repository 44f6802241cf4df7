"""Training and evaluation of a masked model through Accelerate."""
