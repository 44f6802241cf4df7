"""Factories: the class or function behind an import path, and what is known of it before it is called.

An import path is the word of whoever typed it, and importing a module runs its code. What it names is
called only if it can make a module: a subclass of ``torch.nn.Module``, or a function that is neither Python's
own nor annotated as returning anything else. What a function without an annotation does cannot be known
beforehand.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import sysconfig
import types
import typing
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from sigprune.base.errors import BadInput, UnknownName, one_line

_STANDARD = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
_INSTALLED = frozenset({"site-packages", "dist-packages"})


def factory(path: str) -> Callable[..., object]:
    """Import what a dotted path names: the longest prefix that is a module, then attributes of it.

    Raises:
        BadInput: it cannot be imported, or is nothing that makes a module; it was not called.
        UnknownName: a module has no such attribute.
    """
    parts = path.split(".")
    if len(parts) < 2 or not all(parts):
        raise BadInput(f"torch:{path}: expected a dotted path such as torch:mypackage.models.make_model")
    if _is_standard(parts[0]):
        raise _refusal(path, f"a name in {parts[0]}, of Python's standard library")
    module_path, *attributes = _split(parts)
    target: object = importlib.import_module(module_path)
    for attribute in attributes:
        try:
            target = getattr(target, attribute)
        except AttributeError as error:
            unknown = UnknownName(f"name in {module_path}", attribute, dir(target))
            raise BadInput(f"torch:{path}: {unknown}") from error
        except Exception as error:  # modules that import their parts when asked raise whatever those raise
            raise BadInput(f"torch:{path}: {attribute} cannot be had: {one_line(error)}") from error
    got = _objection(target)
    if got is not None:
        raise _refusal(path, got)
    return typing.cast("Callable[..., object]", target)


def _refusal(path: str, got: str) -> BadInput:
    return BadInput(
        f"torch:{path}: expected a subclass of torch.nn.Module, or a function that returns one, got {got}; "
        "nothing was called"
    )


def _split(parts: list[str]) -> list[str]:
    """The import path of the innermost module, then the attributes below it."""
    path = ".".join(parts)
    for end in range(len(parts) - 1, 0, -1):
        module_path = ".".join(parts[:end])
        try:
            importlib.import_module(module_path)
        except Exception as error:  # whatever the caller's own code raises on import
            missing = isinstance(error, ModuleNotFoundError) and f"{module_path}.".startswith(
                f"{error.name}."
            )
            if not missing:  # not just this module, or a package above it, that is not there
                raise BadInput(f"torch:{path}: importing {module_path} failed: {one_line(error)}") from error
        else:
            return [module_path, *parts[end:]]
    raise BadInput(f"torch:{path}: there is no module {parts[0]} to import (is it on PYTHONPATH?)")


def _is_standard(module: str | None) -> bool:
    """Whether a module comes with Python; the caller may have one of the same name. Imports nothing."""
    top = (module or "").partition(".")[0]
    spec = importlib.util.find_spec(top) if top in sys.stdlib_module_names else None
    if spec is None:
        return False
    if spec.origin is None or not spec.has_location:  # built in or frozen; or folders without a file
        return spec.submodule_search_locations is None
    place = Path(spec.origin)
    inside = any(place.is_relative_to(folder) for folder in _STANDARD)
    return inside and not _INSTALLED & set(place.parts)


def _objection(target: object) -> str | None:
    """What a target is if it makes no module, in words; None if it may make one."""
    while (inner := _inside(target)) is not None:
        target = inner
    if isinstance(target, type):
        return None if nn.Module in target.__mro__ else f"the class {_named(target)}, which is no subclass"
    if isinstance(target, types.FunctionType):
        return _objection_to(target)
    return f"{type(target).__name__} {_named(target)}" if callable(target) else type(target).__name__


def _inside(target: object) -> object | None:
    """What is called in the end by a partial, a bound method, a cache or another decorator."""
    if isinstance(target, partial):
        return target.func
    if isinstance(target, types.MethodType):
        return target.__func__
    decorated = callable(target) and not isinstance(target, type)
    return getattr(target, "__wrapped__", None) if decorated else None


def _objection_to(function: types.FunctionType) -> str | None:
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        return f"{_named(function)}, whose calls make coroutines or generators"
    if _makes_no_module(_returned(function)):
        return f"{_named(function)}, which returns {function.__annotations__['return']!r}"
    return f"{_named(function)}, of Python's standard library" if _is_standard(function.__module__) else None


def _named(target: object) -> str:
    """Module and name of a class or function."""
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    return ".".join(str(part) for part in (module, name) if part)


def _returned(function: types.FunctionType) -> object:
    """The annotation of what a function returns; Any if it has none, or one that cannot be read."""
    annotation = function.__annotations__.get("return", typing.Any)
    if not isinstance(annotation, str):
        return annotation
    try:
        return typing.get_type_hints(
            types.SimpleNamespace(__annotations__={"return": annotation}), function.__globals__
        )["return"]
    except Exception:  # a name that is imported for type checkers only: nothing is known
        return typing.Any


def _makes_no_module(annotation: object) -> bool:
    """Whether no value of an annotation can be a module."""
    if annotation is None or annotation is types.NoneType:
        return True
    origin = typing.get_origin(annotation)
    if origin in {typing.Union, types.UnionType}:
        return all(_makes_no_module(one) for one in typing.get_args(annotation))
    kind = origin or annotation
    if kind is typing.Any or not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return False
    return not (issubclass(kind, nn.Module) or issubclass(nn.Module, kind))
