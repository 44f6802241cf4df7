"""Scores: ``score(problem, *, ...) -> Tensors`` gives one number per prunable entry, higher = keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

from sigprune.base.family import Family

if TYPE_CHECKING:
    from torch import Tensor

Needs = Literal["nothing", "inputs", "objective"]


class Score(Protocol):
    """A member: ``score(problem, *, options)`` returns finite scores for the names of ``problem.mask``.

    Shapes are the stored shapes; the dtype is floating. ``NEEDS`` says which evidence is read: nothing,
    inputs, or what the objective reads. ``SCHEDULE`` is the schedule used when the caller names none.
    The model is left as it was found.
    """

    NEEDS: Needs
    PAPER: str
    SCHEDULE: str
    score: Callable[..., dict[str, Tensor]]


scores: Family[Score] = Family(__name__, "score", "score")
