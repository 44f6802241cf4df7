"""Patterns: ``select(scores, count, ...) -> Tensor`` says where the kept entries of one weight may sit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from sigprune.base.family import Family

if TYPE_CHECKING:
    from torch import Tensor


class Pattern(Protocol):
    """A member: ``select(scores, count, generator, *, options)`` returns a boolean CPU tensor, True = keep.

    ``scores`` has the weight's stored shape, with minus infinity where an entry was removed earlier: there is
    enough left, and it stays removed. Exactly ``count`` entries are kept; ties are broken by the generator.
    """

    PAPER: str
    select: Callable[..., Tensor]


patterns: Family[Pattern] = Family(__name__, "pattern", "select")
