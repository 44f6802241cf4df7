"""What everything else stands on: errors, families, seeds, named tensors."""
