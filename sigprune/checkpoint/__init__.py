"""Checkpoints: sparse and dense files of a model, written, read, converted, inspected and pruned."""
