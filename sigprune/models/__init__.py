"""Models: a reference becomes a module, a module becomes a view."""
