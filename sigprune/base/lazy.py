"""Names of a package that are imported when they are first used, so that the package itself stays light."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

from sigprune.base.renamed import old_name


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """A module-level ``__getattr__`` (PEP 562) for a package.

    Args:
        package: the package's ``__name__``.
        homes: public name -> module that defines it, relative to the package. Names that the package had in
            an earlier version are answered too (:data:`~sigprune.base.renamed.NAMES`).
    """

    def __getattr__(name: str) -> object:
        if name not in homes:
            return old_name(package, name, stacklevel=4)
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return __getattr__
