"""What `sigprune list` knows: families, members, shipped recipes, architectures. Imports no torch."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any

from sigprune import families as folder
from sigprune.base.errors import BadInput, UnknownName
from sigprune.base.registry import Family, JsonValue, Member, Option

Row = dict[str, JsonValue]
OTHERS = ("models", "recipes")
"""What can be listed and is no family."""


def list_rows(what: str | None, pattern: str) -> list[Row]:
    """Rows for a family, ``models`` or ``recipes``; for None an overview of all of them.

    Args:
        what: a family's name.
        pattern: shell pattern of the names to list.

    Raises:
        UnknownName: there is no such family.
        BadInput: nothing matches the pattern.
    """
    known = _families()
    what = "repairs" if what == "isometries" else what  # its name until 0.2
    if what is None:
        return [{"family": name, "members": list(family.names())} for name, family in known.items()]
    if what == "models":
        rows = _models(known["adapters"])
    elif what == "recipes":
        rows = _recipes()
    elif what in known:
        rows = [_member(known[what].read(name)) for name in known[what].names()]
    else:
        raise UnknownName("family", what, [*known, *OTHERS])
    found = [row for row in rows if fnmatchcase(str(row["name"]), pattern)]
    if not found:
        raise BadInput(f"none of {len(rows)} {what} matches {pattern!r}")
    return found


def _families() -> dict[str, Family[Any]]:
    """Name -> family: each folder holds a Family of its own name."""
    names = [m.name for m in pkgutil.iter_modules(folder.__path__) if m.ispkg]
    return {name: getattr(import_module(f"{folder.__name__}.{name}"), name) for name in sorted(names)}


def _member(member: Member) -> Row:
    facts = {
        key.lower(): value
        for key, value in member.facts.items()
        if key in {"NEEDS", "SCHEDULE", "ROUNDS", "REMOVED", "PAPER"}
    }
    options: list[JsonValue] = [_option(option) for option in member.options.values()]
    return {"name": member.name, "summary": member.summary, "options": options, **facts}


def _option(option: Option) -> str:
    value = "" if option.required else f" = {'null' if option.default is None else option.default}"
    return f"{option.name}: {option.type}{value}"


def _recipes() -> list[Row]:
    from sigprune.recipe.recipe import load_recipe, shipped

    found: list[Row] = []
    for name in shipped():
        recipe = load_recipe(name)
        steps: dict[str, JsonValue] = {"data": recipe.data.source.name, "score": recipe.prune.score.name}
        found.append({"name": name, "model": recipe.model.ref, **steps, "sparsity": recipe.prune.sparsity})
    return found


def _models(adapters: Family[Any]) -> list[Row]:
    rows: list[Row] = []
    for library in adapters.names():
        architectures: Sequence[str] = adapters.get(library).names()
        rows += [{"name": name, "reference": f"{library}:{name}"} for name in architectures]
    return rows
