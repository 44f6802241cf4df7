"""What a recipe file may do unasked, and what needs the caller's consent.

A recipe is data. Unasked it names members of families, which are installed, and public models of the Hub, and
reads what lies in its own folder. Everything else that a *file* says needs consent: code that is called,
files elsewhere, sending something. What the caller types, or makes in Python, is the caller's own word.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sigprune.base.errors import NeedsConsent
from sigprune.base.escape import printable
from sigprune.base.registry import MemberSpec
from sigprune.families.adapters import adapters
from sigprune.recipe.origin import Keys, Origin
from sigprune.recipe.recipe import Recipe
from sigprune.recipe.sections import Push, Section
from sigprune.recipe.step_field import Choose

_MAX_SHOWN = 8
_LONGEST_SHOWN = 200
_FREE_TEXT = re.compile(r"\b(str|list|dict)\b")
"""Annotations of options that may hold a path; a Literal holds words of the member's own."""


@dataclass(frozen=True)
class Permission:
    """One value of a recipe file that needs consent.

    Attributes:
        path: where it stands.
        action: what carrying it out would do, in words.
    """

    path: Keys
    action: str

    def __str__(self) -> str:
        text = printable(f"{'.'.join(self.path)} {self.action}")
        return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def permissions(recipe: Recipe) -> tuple[Permission, ...]:
    """What a recipe's file asks for and the caller has not consented to; looks at files, opens none.

    Example:
        >>> from sigprune.recipe.recipe import load_recipe
        >>> permissions(load_recipe("quickstart"))
        ()
    """
    origin = recipe.origin
    if origin.file is None or origin.consented:
        return ()
    return (*_code(recipe), *_files(recipe), *_sending(recipe))


def expect_consent(recipe: Recipe) -> None:
    """Stop unless the caller answers for everything that the recipe would do.

    Raises:
        NeedsConsent: one line with all that its file asks for, and how to consent.
    """
    asked = permissions(recipe)
    if asked:
        shown = "; ".join(map(str, asked[:_MAX_SHOWN]))
        more = f"; and {len(asked) - _MAX_SHOWN} more" if len(asked) > _MAX_SHOWN else ""
        raise NeedsConsent(
            f"{printable(str(recipe.origin.file))}: this recipe asks for your consent: {shown}{more}; if you "
            "trust it, add --trust (trust=True in Python), or give these values yourself with --set"
        )


def _models(recipe: Recipe) -> dict[Keys, str]:
    """The references of models, where they stand."""
    found: dict[Keys, str] = {("model", "ref"): recipe.model.ref}
    if isinstance(recipe.prune.parameters, str):
        found["prune", "parameters"] = recipe.prune.parameters
    return found


def _code(recipe: Recipe) -> Iterator[Permission]:
    """Import paths, and arguments from the file for a callable that the caller named."""
    for path, ref in _models(recipe).items():
        if not _names_code(ref):
            continue
        if not recipe.origin.is_own_word(path):
            yield Permission(path, f"imports and calls {ref}")
        elif any(not recipe.origin.is_own_word(("model", "args", key)) for key in recipe.model.args):
            yield Permission(("model", "args"), f"are arguments of {ref}")


def _names_code(ref: str) -> bool:
    return _without_library(ref).startswith("torch:")


def _files(recipe: Recipe) -> Iterator[Permission]:
    for path, text in _texts(recipe):
        if not recipe.origin.is_own_word(path) and _leads_outside(text, recipe.origin):
            yield Permission(path, f"reads {text}")


def _texts(recipe: Recipe) -> Iterator[tuple[Keys, str]]:
    """Every text that may name a file: references, a mask, arguments of the model, options of members."""
    yield from ((path, ref) for path, ref in _models(recipe).items() if not _names_code(ref))
    if recipe.prune.mask is not None:
        yield ("prune", "mask"), recipe.prune.mask
    yield from _leaves(recipe.model.args, ("model", "args"))
    yield from _options(recipe, ())


def _options(section: Section, above: Keys) -> Iterator[tuple[Keys, str]]:
    hints = typing.get_type_hints(type(section), include_extras=True)
    for name, value in section:
        path = (*above, name)
        if isinstance(value, Section):
            yield from _options(value, path)
        elif isinstance(value, MemberSpec) and (choose := _annotated(hints[name])) is not None:
            known = choose.family.read(value.name).options
            for key, option in value.options.items():
                if _FREE_TEXT.search(known[key].annotation):
                    yield from _leaves(option, (*path, key))


def _annotated(hint: object) -> Choose | None:
    """The family that an annotation, or a part of a union, chooses from."""
    for part in (*getattr(hint, "__metadata__", ()), *typing.get_args(hint)):
        found = part if isinstance(part, Choose) else _annotated(part)
        if found is not None:
            return found
    return None


def _leaves(value: object, path: Keys) -> Iterator[tuple[Keys, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inside in value.items():
            yield from _leaves(inside, (*path, str(key)))
    elif isinstance(value, list):
        for index, inside in enumerate(value):
            yield from _leaves(inside, (*path, str(index)))


def _leads_outside(text: str, origin: Origin) -> bool:
    """Whether a text is an address, or names a file on this machine outside the recipe's own folder.

    A relative name that nothing on this machine has names no file: it is a repository of the Hub, or a word.
    """
    place = _without_library(text)
    if not place:
        return False
    if "://" in place:
        return True
    elsewhere = place.startswith(("/", "~", "\\")) or ".." in re.split(r"[/\\]", place)
    try:
        path = Path(place).expanduser()
        return (elsewhere or path.exists()) and not path.resolve().is_relative_to(origin.folder or "")
    except (OSError, RuntimeError, ValueError):  # no path at all, or the home of a user that does not exist
        return elsewhere


def _without_library(ref: str) -> str:
    """The part of a model reference that names a place; empty if it names an architecture of a library.

    As ``parse_ref`` and the adapters read it: ``timm:resnet18`` is an architecture, ``timm:./folder``,
    ``local-dir:folder`` and ``timm:local-dir:folder`` are places; what ``torch:`` names is code.
    """
    libraries = set(adapters.names()) - {"torch"}
    while True:
        library, colon, rest = ref.partition(":")
        if not colon or library not in libraries | {"hf-hub", "local-dir"}:
            return ref
        if library in libraries and not {"/", ":"} & set(rest):
            return ""
        ref = rest


def _sending(recipe: Recipe) -> Iterator[Permission]:
    push, default = recipe.push, Push()
    if push.repo is None:
        return
    if not recipe.origin.is_own_word(("push", "repo")):
        yield Permission(("push", "repo"), f"sends the result to {push.repo} under your token")
    for key, value in push:
        changed = key != "repo" and value != getattr(default, key)
        if changed and not recipe.origin.is_own_word(("push", key)):
            yield Permission(("push", key), f"is {value}")
