"""What pretrained weights did not fill: remembered on the model, so that a report can say it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from torch import nn

_MARK = "_sigprune_replaced"


@dataclass(frozen=True)
class Replaced:
    """Tensors of a pretrained model that were drawn afresh.

    Attributes:
        names: in the state dict.
        reason: why the weights have none for them.
    """

    names: tuple[str, ...]
    reason: str


def remember_replaced_(module: nn.Module, names: Iterable[str], reason: str) -> None:
    """Say which tensors of a pretrained model were drawn afresh, if any."""
    if found := tuple(names):
        vars(module)[_MARK] = Replaced(found, reason)


def replaced_in(module: nn.Module) -> Replaced | None:
    """What is remembered of the model."""
    return cast("Replaced | None", vars(module).get(_MARK))


def other_classes(have: int, wanted: int) -> str:
    """The reason that a classifier of another size gives."""
    return f"the pretrained weights have {have} classes, and {wanted} were asked for"
