"""Problems: what a score is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sigprune.base.errors import NeedsData
from sigprune.base.tensors import Tensors
from sigprune.values.batch import Batch, BatchLike
from sigprune.values.mask import Mask
from sigprune.values.view import View

Objective = Callable[[Tensor, Batch], Tensor]
Prepare = Callable[[int, Batch], Batch]


@dataclass(frozen=True, eq=False)
class Setting:
    """What an objective may use to prepare a batch before the forward pass.

    Attributes:
        generator: a stream for the number of this batch, on the CPU: the same in every round, whatever the
            batch holds.
        dense: the output of the dense network (the module's own parameters) for a batch, detached; one
            forward pass.
    """

    generator: torch.Generator
    dense: Callable[[Batch], Tensor]


def unprepared(_number: int, batch: Batch) -> Batch:
    """The batch as it is: for scores without an objective, and objectives that prepare nothing."""
    return batch


@dataclass(frozen=True, eq=False)
class Problem:
    """A network, the entries still kept, and the evidence that a score may use.

    Attributes:
        view: the network.
        mask: entries still kept; scores are for its names.
        generator: the score's own random stream, on the CPU.
        objective: (output, batch) -> scalar mean over the batch.
        data: what the caller gave, or None; read it through :meth:`batches`.
        prepare: (number of the batch, batch) -> the batch as the objective wants it before the forward pass.
    """

    view: View
    mask: Mask
    generator: torch.Generator
    objective: Objective
    data: Iterable[BatchLike] | None = None
    prepare: Prepare = unprepared

    def batches(self) -> Iterator[Batch]:
        """The batches, ready for the model and for the objective.

        Raises:
            NeedsData: none were given, or there is not one batch.
        """
        if self.data is None:
            raise NeedsData(
                "this score needs data: pass batches=... (recipe: data), or choose a data-free score"
            )
        number = -1
        for number, item in enumerate(self.data):
            yield self.prepare(number, self.view.read(item))
        if number < 0:
            raise NeedsData("the batches given to this score hold no batch")

    def loss(self, params: Tensors, batch: Batch) -> Tensor:
        """The objective of the network with these parameters, a scalar."""
        return self.objective(self.view.forward(params, batch), batch)

    def leaves(self, dtype: torch.dtype | None = None) -> Tensors:
        """Every parameter, the masked names as leaves that collect gradients, removed entries zero.

        A weight of which everything is kept shares storage with the module (no copy).
        """
        tensors = self.view.params()
        for name, keep in self.mask.keep.items():
            if not bool(keep.all()):
                tensors[name] = tensors[name].masked_fill(~keep.to(tensors[name].device), 0.0)
        if dtype is not None:
            tensors = {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}
        return {k: t.detach().requires_grad_() if k in self.mask.keep else t for k, t in tensors.items()}
