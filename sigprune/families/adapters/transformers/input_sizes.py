"""What the configuration of a transformers model tells of its inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KINDS = {
    "image": ("vision", "image", "vit", "visual", "backbone"),
    "sound": ("audio", "speech", "sound", "acoustic", "codec"),
    "text": ("text", "language", "llm"),
}
"""Parts of the names of sub-configurations, by the kind of input that their network takes."""


@dataclass(frozen=True, eq=False)
class Facts:
    """The configuration as nested mappings, and the names that ``forward`` takes.

    Attributes:
        model: the model.
        tree: its configuration.
        accepted: every name that its ``forward`` takes.
        required: those without a default, in order; ``*args`` of a class without a forward is one of them.
    """

    model: PreTrainedModel
    tree: Mapping[str, object] = field(repr=False)
    accepted: frozenset[str]
    required: tuple[str, ...]

    def find(self, *names: str, kind: str = "image") -> object:
        """The value of the first of these fields that is set, in the nearest configuration that has one.

        Args:
            names: of fields, the first preferred.
            kind: ``image``, ``sound`` or ``text``: networks of other kinds are asked last.
        """
        for part in _parts(self.tree, kind):
            for name in names:
                if part.get(name) is not None:
                    return part[name]
        return None

    def number(self, *names: str, kind: str = "image", default: int) -> int:
        """Like :meth:`find`, for a whole number (the first one of several)."""
        found = self.find(*names, kind=kind)
        first = found[0] if isinstance(found, list | tuple) and found else found
        return first if type(first) is int else default


Made: TypeAlias = Mapping[str, Tensor]
"""The inputs that are made already."""

Maker: TypeAlias = Callable[[Facts, Made], Tensor]
"""Makes one input."""


def facts_of(model: PreTrainedModel) -> Facts:
    """Read a model's configuration and the signature of its ``forward``."""
    parameters = inspect.signature(model.forward).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return Facts(model, model.config.to_dict(), frozenset(p.name for p in parameters), tuple(needed))


def _parts(tree: Mapping[str, object], kind: str) -> Iterator[Mapping[str, object]]:
    """A configuration and its sub-configurations: own kind first, then those of no kind, then the others."""
    level: list[tuple[int, Mapping[str, object]]] = [(1, tree)]
    found: list[tuple[int, Mapping[str, object]]] = []
    while level:
        found += level
        level = [
            (_rank(key, kind, rank), value)
            for rank, part in level
            for key, value in part.items()
            if isinstance(value, Mapping) and ("model_type" in value or key == "model_args")
        ]
    yield tree
    yield from (part for _, part in sorted(found[1:], key=lambda pair: pair[0]))


def _rank(name: str, kind: str, inherited: int) -> int:
    for other, parts in KINDS.items():
        if any(part in name for part in parts):
            return 0 if other == kind else 2
    return inherited
