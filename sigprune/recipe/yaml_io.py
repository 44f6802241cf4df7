"""The text of recipes: YAML in and out, shipped files, and settings given as ``path=value``.

A recipe, and the value of each setting, is bounded before and while it is read: :data:`LARGEST` bytes,
:data:`MAX_VALUES` values (what an alias repeats counts every time), :data:`LONGEST` characters of one text
and :data:`DEEPEST` levels.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import cast

import yaml

from sigprune.base.errors import RecipeError, UnknownName
from sigprune.base.registry import JsonValue
from sigprune.format.names import RECIPE
from sigprune.recipe.error_messages import joined, shown

_SCALARS: tuple[tuple[str, str, str], ...] = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
)
"""Plain scalars as YAML 1.2 reads them: ``1e-3`` is a number; ``no``, dates and ``1:30`` are text."""


LARGEST = 2**18
"""Bytes of a recipe; one with every default resolved has 3,000. Whatever they are, reading takes seconds."""
MAX_VALUES = 10_000
"""Keys and values of a recipe; one with every default resolved has 200."""
LONGEST = 4096
"""Characters of one text: those of the longest path."""
LONGEST_NAME = 100
"""Characters of a recipe's name, which becomes part of a file name."""
DEEPEST = 32
"""Levels of mappings and lists, one below the other."""


class _Loader(yaml.SafeLoader):
    """Refuses keys that are repeated or no text, tags, and what is beyond the bounds, while it reads."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - none of YAML 1.1

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = 0
        self._depth = 0
        self._sizes: dict[str, int] = {}  # anchor -> values below it, once all of them are read

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Count what is about to be read; the base class reads it."""
        event = cast(yaml.NodeEvent, self.peek_event())  # type: ignore[no-untyped-call]
        anchor = event.anchor
        if isinstance(event, yaml.AliasEvent):
            if anchor in self.anchors and anchor not in self._sizes:
                raise _refusal(event, f"*{anchor} stands inside what it names")
            self._count(event, self._sizes.get(str(anchor), 0))
            return super().compose_node(parent, index)
        before = self._values
        self._count(event, 1)
        self._depth += 1
        _check_event(event, self._depth)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if anchor is not None:
            self._sizes[anchor] = self._values - before
        return node

    def _count(self, event: yaml.Event, values: int) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise _refusal(event, f"expected at most {MAX_VALUES:,} keys and values, got more")

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


def _check_event(event: yaml.NodeEvent, depth: int) -> None:
    """Whether what begins here is plain data within the bounds."""
    if depth > DEEPEST:
        raise _refusal(event, f"expected at most {DEEPEST} levels, got more")
    if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
        raise _refusal(event, f"expected plain data, got the tag {event.tag[:60]}")
    if isinstance(event, yaml.ScalarEvent) and len(event.value) > LONGEST:
        raise _refusal(
            event, f"expected at most {LONGEST:,} characters in one text, got {len(event.value):,}"
        )


def _refusal(event: yaml.Event, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=cast(yaml.Mark, event.start_mark))


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would read as anything but text; never writes anchors."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the signature of the base class
        return True


for _tag, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), [c.strip("\0") for c in _first]
        )


def loads(text: str, origin: str) -> JsonValue:
    """Plain data from YAML text; no part of it is shared with another, whatever aliases it has.

    Raises:
        RecipeError: a syntax error, a repeated key, a tag, or more than the bounds allow; names the origin
            and the line.
    """
    size = len(text.encode(errors="surrogatepass"))
    if size > LARGEST:
        raise RecipeError(f"{origin}: expected at most {LARGEST:,} bytes, got {size:,}")
    try:
        return _unshared(cast(JsonValue, yaml.load(text, _Loader)))  # a SafeLoader
    except ValueError as error:  # an integer of more digits than Python is set to read
        raise RecipeError(f"{origin}: not valid YAML: {error}") from error
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error)
        where = f"{origin}, line {mark.line + 1}, column {mark.column + 1}" if mark else origin
        raise RecipeError(f"{where}: not valid YAML: {' '.join(str(problem).split())}") from error


def _unshared(value: JsonValue) -> JsonValue:
    """A copy in which changing one place changes no other, as it would where aliases were."""
    if isinstance(value, dict):
        return {key: _unshared(inside) for key, inside in value.items()}
    return [_unshared(inside) for inside in value] if isinstance(value, list) else value


def dumps(data: JsonValue) -> str:
    """YAML text that :func:`loads` reads back as equal data; one line for each mapping of scalars."""
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True
    )


def shipped() -> dict[str, Path]:
    """Name -> file of the recipes that come with the package (from a wheel or from the source tree)."""
    package = Path(__file__).parents[1]
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
    if path.is_dir() and (path / RECIPE).is_file():
        return path / RECIPE
    if path.is_file():
        return path
    if isinstance(ref, str) and path.name == ref and not path.suffix:
        raise UnknownName("recipe", ref, known)
    raise RecipeError(
        f"{path}: expected a recipe file, got {'a folder' if path.is_dir() else 'no such file'}"
    )


def read(ref: str | Path) -> dict[str, JsonValue]:
    """The unchecked data of a recipe; its ``name`` is the file's unless it gives one.

    Raises:
        RecipeError: no such file, unreadable text, or no mapping of sections.
    """
    path = find(ref)
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise RecipeError(
                f"{path}: expected a recipe of at most {LARGEST:,} bytes, got {path.stat().st_size:,}"
            )
        text = raw.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: expected a readable UTF-8 file, got {error}") from error
    data = loads(text, str(path))
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: expected a mapping of sections, got {type(data).__name__}")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-")[:LONGEST_NAME]
    return {"name": name or "recipe", **data}


def override(data: Mapping[str, JsonValue], settings: Sequence[str]) -> dict[str, JsonValue]:
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
    problems = []
    for setting in settings:
        try:
            keys = keys_of(setting)
            _put_(changed, keys, loads(setting.partition("=")[2], f"the value of {'.'.join(keys)}"))
        except RecipeError as error:
            problems.append(str(error))
    if problems:
        raise RecipeError(joined(problems))
    return changed


def keys_of(setting: str) -> tuple[str, ...]:
    """The path of a setting ``path=value``.

    Raises:
        RecipeError: it has another form, or a path beyond the bounds.
    """
    path, equals, _ = setting.partition("=")
    keys = tuple(path.strip().split("."))
    if len(path) > LONGEST or len(keys) > DEEPEST:
        raise RecipeError(
            f"{path[:60]}...: expected a path of at most {DEEPEST} levels and {LONGEST:,} characters, got "
            f"{len(keys):,} levels and {len(path):,} characters"
        )
    if not equals or not all(keys):
        raise RecipeError(f"{setting}: expected path=value, for example prune.sparsity=0.95")
    return keys


def _put_(data: dict[str, JsonValue], keys: Sequence[str], value: JsonValue) -> None:
    here = data
    for depth, key in enumerate(keys[:-1], start=1):
        below = here.get(key)
        if below is None:
            below = {}
        elif isinstance(below, str):
            below = {"name": below}
        if not isinstance(below, dict):
            where = ".".join(keys[:depth])
            raise RecipeError(f"{'.'.join(keys)}: {where} holds no keys, it is {shown(below)}")
        here[key] = below
        here = below
    here[keys[-1]] = value
