"""The text of recipes: YAML in and out, shipped files, and settings given as ``path=value``."""

from __future__ import annotations

import copy
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import cast

import yaml

from sigprune.base.errors import RecipeError, UnknownName
from sigprune.base.family import Plain

_SCALARS: tuple[tuple[str, str, str], ...] = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
)
"""Plain scalars as YAML 1.2 reads them: ``1e-3`` is a number; ``no``, dates and ``1:30`` are text."""


class _Loader(yaml.SafeLoader):
    """Refuses keys that are repeated or no text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - none of YAML 1.1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is repeated", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would read as anything but text; never writes anchors."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the signature of the base class
        return True


for _tag, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [c.strip("\0") for c in _first]
        )


def loads(text: str, origin: str) -> Plain:
    """Plain data from YAML text.

    Raises:
        RecipeError: a syntax error, a repeated key, a tag; names the origin and the line.
    """
    try:
        return cast(Plain, yaml.load(text, _Loader))  # a SafeLoader
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, endless nesting
        raise RecipeError(f"{origin}: not valid YAML: {error}") from error
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error)
        where = f"{origin}, line {mark.line + 1}, column {mark.column + 1}" if mark else origin
        raise RecipeError(f"{where}: not valid YAML: {' '.join(str(problem).split())}") from error


def dumps(data: Plain) -> str:
    """YAML text that :func:`loads` reads back as equal data; one line for each mapping of scalars."""
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True
    )


def shipped() -> dict[str, Path]:
    """Name -> file of the recipes that come with the package (from a wheel or from the source tree)."""
    package = Path(__file__).parent
    inside = package / "_recipes"
    folder = inside if inside.is_dir() else package.parent / "recipes"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find(ref: str | Path) -> Path:
    """The file that a reference names: a shipped recipe's bare name, a path, or the folder of a run.

    Raises:
        RecipeError: there is no such file.
        UnknownName: a bare name that no shipped recipe has.
    """
    known = shipped()
    if isinstance(ref, str) and ref in known:
        return known[ref]
    path = Path(ref)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    if path.is_file():
        return path
    if isinstance(ref, str) and path.name == ref and not path.suffix:
        raise UnknownName("recipe", ref, known)
    raise RecipeError(
        f"{path}: expected a recipe file, got {'a folder' if path.is_dir() else 'no such file'}"
    )


def read(ref: str | Path) -> dict[str, Plain]:
    """The unchecked data of a recipe; its ``name`` is the file's unless it gives one.

    Raises:
        RecipeError: no such file, unreadable text, or no mapping of sections.
    """
    path = find(ref)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: expected a readable UTF-8 file, got {error}") from error
    data = loads(text, str(path))
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: expected a mapping of sections, got {type(data).__name__}")
    return {"name": re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-") or "recipe", **data}


def override(data: Mapping[str, Plain], settings: Sequence[str]) -> dict[str, Plain]:
    """A copy of the data with each ``path=value`` put in; values are YAML.

    A path may go on below a member's bare name: ``prune.score.rounds=5`` turns ``snip`` into
    ``{name: snip, rounds: 5}``.

    Raises:
        RecipeError: a setting without ``=``, or a path through something that holds no keys.

    Example:
        >>> override({"prune": {"score": "synflow"}}, ["prune.sparsity=0.95"])
        {'prune': {'score': 'synflow', 'sparsity': 0.95}}
    """
    changed = copy.deepcopy(dict(data))
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise RecipeError(f"{setting}: expected path=value, for example prune.sparsity=0.95")
        _put_(changed, keys, loads(text, f"the value of {path.strip()}"))
    return changed


def _put_(data: dict[str, Plain], keys: Sequence[str], value: Plain) -> None:
    here = data
    for depth, key in enumerate(keys[:-1], start=1):
        below = here.get(key)
        if below is None:
            below = {}
        elif isinstance(below, str):
            below = {"name": below}
        if not isinstance(below, dict):
            where = ".".join(keys[:depth])
            raise RecipeError(f"{'.'.join(keys)}: {where} holds no keys, it is {below!r}")
        here[key] = below
        here = below
    here[keys[-1]] = value
