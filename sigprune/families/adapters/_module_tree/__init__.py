"""The walk over a module tree that all adapters share: where parameters sit and how they are read."""
