"""Objectives: ``objective(output, batch) -> scalar`` is what a data-driven score differentiates."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

from sigprune.base.registry import Family

if TYPE_CHECKING:
    from torch import Tensor

    from sigprune.values.batch import Batch

Needs = Literal["nothing", "inputs", "labels", "tokens"]


class Objective(Protocol):
    """A member: ``objective(output, batch, *, options)`` returns the mean over the batch, a scalar tensor.

    ``output`` has shape (examples, classes), or (examples, tokens, classes): then the mean is over the tokens
    that count (padding does not). ``NEEDS`` says what is read: nothing, any inputs, labels, or inputs that
    are token ids with an output (examples, tokens, vocabulary).

    A member that needs more than a batch before the forward pass also defines
    ``prepare(batch, setting, *, options) -> Batch`` with the same options: it may change the inputs and leave
    what the objective will need in ``batch.target`` (first axis: examples). ``setting``
    (:class:`sigprune.values.problem.Setting`) has a seeded generator and the dense network.

    A member whose mean leaves predictions out for reasons other than padding (labels of -100, say) also
    defines ``predictions(output, batch, *, options) -> int``: how many the mean is over, so that batches
    weigh by it in the mean over all data.
    """

    NEEDS: Needs
    PAPER: str
    objective: Callable[..., Tensor]


def preparation(member: Objective) -> Callable[..., Batch] | None:
    """The member's own ``prepare``, or None where batches serve as they are."""
    own: Callable[..., Batch] | None = vars(member).get("prepare")
    return own


def predictions(member: Objective) -> Callable[..., int]:
    """The member's ``predictions(output, batch, *, options)``; without one every row counts but padding."""
    from sigprune.families.objectives._shared import unpadded

    own: Callable[..., int] | None = vars(member).get("predictions")
    return unpadded if own is None else own


objectives: Family[Objective] = Family(__name__, "objective", "objective")
