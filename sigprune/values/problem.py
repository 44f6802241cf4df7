"""Problems: what a score is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sigprune.base.bits import zeroed
from sigprune.base.errors import NeedsData
from sigprune.base.tensors import Tensors, tally
from sigprune.values.batch import Batch, BatchLike
from sigprune.values.mask import Mask
from sigprune.values.view import View

Objective = Callable[[Tensor, Batch], Tensor]
Prepare = Callable[[int, Batch], Batch]
Predictions = Callable[[Tensor, Batch], int]


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


def examples(_output: Tensor, batch: Batch) -> int:
    """One prediction for each example."""
    return len(batch)


@dataclass(eq=False)
class Workspace:
    """Tensors that a score keeps between the rounds of one pruning, so that a round pays for what changes.

    Attributes:
        mask: of the last round; None before the first.
        tensors: name -> tensor, zero where the mask removes.
    """

    mask: Mask | None = None
    tensors: Tensors = field(default_factory=dict)

    def masked(self, mask: Mask, make: Callable[[], Tensors]) -> Tensors:
        """The tensors with zeros where the mask removes; made anew if there are none, or if entries returned.

        Args:
            mask: of this round.
            make: makes them, masked; from what does not change between the rounds.
        """
        if self.mask is None or not self._follow(self.mask, mask):
            self.tensors = {name: tensor.contiguous() for name, tensor in make().items()}
        self.mask = mask
        return self.tensors

    def _follow(self, before: Mask, after: Mask) -> bool:
        if before.keep.keys() != after.keep.keys():
            return False
        for name, keep in after.keep.items():
            changed = torch.from_numpy(np.flatnonzero((keep ^ before.keep[name]).numpy()))
            if bool(keep.reshape(-1)[changed].any()):
                return False
            values = self.tensors[name].view(-1)
            values.index_fill_(0, changed.to(values.device), 0.0)
        return True


@dataclass(frozen=True, eq=False)
class Problem:
    """A network, the entries still kept, and the evidence that a score may use.

    Attributes:
        view: the network.
        mask: entries still kept; scores are for its names.
        generator: the score's own random stream, on the CPU.
        objective: (output, batch) -> scalar mean over the batch.
        data: what the caller gave, or None; read it through :meth:`batches`.
        predictions: (output, batch) -> how many predictions the objective of this batch is the mean over.
        prepare: (number of the batch, batch) -> the batch as the objective wants it before the forward pass.
        workspace: the same one in all rounds of a pruning; the score's own.
    """

    view: View
    mask: Mask
    generator: torch.Generator
    objective: Objective
    data: Iterable[BatchLike] | None = None
    prepare: Prepare = unprepared
    workspace: Workspace = field(default_factory=Workspace)
    predictions: Predictions = examples

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

        A weight of which everything is kept shares storage with the module (no copy), unless that is strided:
        leaves are contiguous, so that kernels, and thereby the last digits, do not depend on strides.
        """
        tensors = {name: tensor.contiguous() for name, tensor in self.view.params().items()}
        for name, keep in self.mask.keep.items():
            if tally(keep) < keep.numel():
                tensors[name] = zeroed(tensors[name], keep)
        if dtype is not None:
            tensors = {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}
        return {k: t.detach().requires_grad_() if k in self.mask.keep else t for k, t in tensors.items()}
