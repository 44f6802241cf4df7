"""Names that moved: the old ones keep working until version 0.3, with a DeprecationWarning.

One table for modules and one for what is in them; no file is left behind at an old place.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MODULES = {
    "sigprune.base.family": "sigprune.base.registry",
    "sigprune.base.seeds": "sigprune.base.rng",
    "sigprune.families.adapters._shared": "sigprune.families.adapters",
    "sigprune.families.isometries": "sigprune.families.repairs",
    "sigprune.values.bits": "sigprune.base.bits",
    "sigprune.values.slot": "sigprune.values.block_spec",
}
"""Modules that the README of version 0.1 told authors of members to import from -> where they are."""

NAMES = {
    "sigprune.Step": "MemberSpec",
    "sigprune.base.registry.Plain": "JsonValue",
    "sigprune.base.registry.Step": "MemberSpec",
    "sigprune.values.block_spec.Slot": "BlockSpec",
}
"""Names in today's modules: old full name -> new name in the same module."""

OPTIONS = {"most_gib": "max_memory_gib", "most_products": "max_products"}
"""Options of members and keys of recipes: old -> new."""


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
        return old_name(module, name, stacklevel=4)

    return __getattr__


def old_name(module: str, name: str, stacklevel: int) -> object:
    """What a module calls otherwise today.

    Raises:
        AttributeError: :data:`NAMES` has no such name.
    """
    new = NAMES.get(f"{module}.{name}")
    if new is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    _warn(f"{module}.{name}", f"{module}.{new}", stacklevel)
    return getattr(sys.modules[module], new)


def old_keywords(**new_names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator for a function whose keywords have new names: the old ones still work.

    Args:
        new_names: old keyword -> new keyword.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            for old in new_names.keys() & kwargs.keys():
                new = new_names[old]
                if new in kwargs:
                    raise TypeError(f"{function.__name__}() got both {new!r} and {old!r}, its old name")
                _warn(f"{function.__name__}({old}=...)", f"{new}=...")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def old_method(old: str, new: str) -> Callable[[object], object]:
    """A method without arguments under its old name.

    Args:
        old: class and method, for the warning.
        new: the method's name of today.
    """

    def call(self: object) -> object:
        _warn(old, new)
        return getattr(self, new)()

    return call


def renamed_options(given: Mapping[str, T]) -> dict[str, T]:
    """Options of a member, or keys of a recipe's section, under their names of today (:data:`OPTIONS`)."""
    for old in given.keys() & OPTIONS.keys():
        _warn(old, OPTIONS[old])
    return {OPTIONS.get(key, key): value for key, value in given.items()}


def _warn(old: str, new: str, stacklevel: int = 3) -> None:
    warnings.warn(f"{old} is now {new}; the old name goes in 0.3", DeprecationWarning, stacklevel=stacklevel)


class _Moved(MetaPathFinder, Loader):
    """Finds a module of the table under its old name; what it holds is that of the new one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname not in MODULES:
            return None
        _warn(fullname, MODULES[fullname])
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        del spec
        return None

    def exec_module(self, module: ModuleType) -> None:
        new = import_module(MODULES[module.__name__])
        module.__doc__ = new.__doc__

        def __getattr__(name: str) -> object:
            return getattr(new, NAMES.get(f"{new.__name__}.{name}", name))

        module.__dict__["__getattr__"] = __getattr__
