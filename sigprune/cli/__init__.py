"""The command line; heavy libraries are imported inside commands."""
