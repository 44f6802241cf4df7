"""The written format: file names, manifests and their index (docs/format.md is the specification)."""
