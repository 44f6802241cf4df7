"""The families: one folder each, one file per member."""
