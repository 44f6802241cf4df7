"""Objectives: ``objective(output, batch) -> scalar`` is what a data-driven score differentiates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

from sigprune.base.family import Family

if TYPE_CHECKING:
    from torch import Tensor

Needs = Literal["nothing", "inputs", "labels"]


class Objective(Protocol):
    """A member: ``objective(output, batch, *, options)`` returns the mean over the batch, a scalar tensor.

    ``output`` has shape (examples, classes). ``NEEDS`` says whether labels are read.
    """

    NEEDS: Needs
    PAPER: str
    objective: Callable[..., Tensor]


objectives: Family[Objective] = Family(__name__, "objective", "objective")
