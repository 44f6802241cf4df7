"""Names that moved: the old ones keep working until version 0.3, with a DeprecationWarning.

One table for modules and one for what is in them; no file is left behind at an old place.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MODULES = {
    "sigprune.base.family": "sigprune.base.registry",
    "sigprune.base.seeds": "sigprune.base.rng",
    "sigprune.families.adapters._shared": "sigprune.families.adapters",
    "sigprune.families.isometries": "sigprune.families.repairs",
    "sigprune.values.bits": "sigprune.base.bits",
    "sigprune.values.slot": "sigprune.values.block_spec",
}
"""Modules that the README of version 0.1 told authors of members to import from -> where they are."""

NAMES: dict[str, str] = {}
"""Names in today's modules: old full name -> new name in the same module."""


def install() -> None:
    """Make Python find the modules of the table; once only. Costs nothing unless a module is not found."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())


def old_names(module: str) -> Callable[[str], object]:
    """A module-level ``__getattr__`` (PEP 562) that answers to the old names of :data:`NAMES`.

    Args:
        module: the module's ``__name__``.
    """

    def __getattr__(name: str) -> object:
        new = NAMES.get(f"{module}.{name}")
        if new is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(f"{module}.{name}", f"{module}.{new}", stacklevel=3)
        return getattr(sys.modules[module], new)

    return __getattr__


def _warn(old: str, new: str, stacklevel: int) -> None:
    warnings.warn(f"{old} is now {new}; the old name goes in 0.3", DeprecationWarning, stacklevel=stacklevel)


class _Moved(MetaPathFinder, Loader):
    """Finds a module of the table under its old name; what it holds is that of the new one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname not in MODULES:
            return None
        _warn(fullname, MODULES[fullname], stacklevel=3)
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        del spec
        return None

    def exec_module(self, module: ModuleType) -> None:
        new = import_module(MODULES[module.__name__])
        module.__doc__ = new.__doc__
        module.__dict__["__getattr__"] = lambda name: getattr(new, name)
