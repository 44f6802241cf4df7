"""Allocations: ``allocate(ranking, *, ...) -> dict[str, int]`` says how many entries each weight keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from sigprune.base.lazy import lazy_names
from sigprune.base.registry import Family

if TYPE_CHECKING:
    from sigprune.families.allocations._shared import divide as divide
    from sigprune.families.allocations._shared import share as share


class Allocation(Protocol):
    """A member: ``allocate(ranking, *, options)`` returns counts that sum to ``ranking.budget`` exactly.

    Each count lies between zero and the weight's capacity. Ties are broken by ``ranking.generator``. Names
    are those of ``ranking.scores``, in their order; ``ranking.sites`` tells roles and shapes.
    """

    PAPER: str
    allocate: Callable[..., dict[str, int]]


allocations: Family[Allocation] = Family(__name__, "allocation", "allocate")

__getattr__ = lazy_names(__name__, {"divide": "_shared", "share": "_shared"})
