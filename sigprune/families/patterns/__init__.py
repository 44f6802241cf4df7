"""Patterns: ``select(ranking, allocate, ...) -> masks`` says where the kept entries may sit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from sigprune.base.registry import Family
from sigprune.values.compatibility import Counts

if TYPE_CHECKING:
    from torch import Tensor

    from sigprune.values.ranking import Ranking

Allocate: TypeAlias = "Callable[[Ranking], dict[str, int]]"
"""An allocation with its options."""


class Pattern(Protocol):
    """A member: ``select(ranking, allocate, *, options)`` returns name -> boolean CPU tensor, True = keep.

    ``allocate(ranking)`` gives the number of entries each weight should keep; a pattern with units larger
    than an entry may give it the scores of units in place of those of entries. ``COUNTS`` says what the
    pattern does with the numbers (:data:`~sigprune.values.compatibility.Counts`). ``ranking.sites`` says
    where the blocks of a weight sit. ``ranking.take(name)`` gives the scores of a weight, which the pattern
    may write over. What an earlier round removed (minus infinity there) stays removed; ties are broken by
    ``ranking.ties(name)``, never by position.
    """

    PAPER: str
    COUNTS: Counts
    select: Callable[..., dict[str, Tensor]]


class FixedPattern(Pattern, Protocol):
    """A member whose ``COUNTS`` are ``fixed``: ``counts(ranking, *, options)`` gives name -> entries kept."""

    counts: Callable[..., dict[str, int]]


patterns: Family[Pattern] = Family(__name__, "pattern", "select")
