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


@dataclass(frozen=True, eq=False)
class Problem:
    """A network, the entries still kept, and the evidence that a score may use.

    Attributes:
        view: the network.
        mask: entries still kept; scores are for its names.
        generator: the score's own random stream, on the CPU.
        objective: (output, batch) -> scalar mean over the batch.
        data: what the caller gave, or None; read it through :meth:`batches`.
    """

    view: View
    mask: Mask
    generator: torch.Generator
    objective: Objective
    data: Iterable[BatchLike] | None = None

    def batches(self) -> Iterator[Batch]:
        """The batches, ready for the model.

        Raises:
            NeedsData: none were given, or there is not one batch.
        """
        if self.data is None:
            raise NeedsData(
                "this score needs data: pass batches=... (recipe: data), or choose a data-free score"
            )
        empty = True
        for item in self.data:
            empty = False
            yield self.view.read(item)
        if empty:
            raise NeedsData("the batches given to this score hold no batch")

    def leaves(self, dtype: torch.dtype | None = None) -> Tensors:
        """Every parameter, the masked names as leaves that collect gradients, removed entries zero.

        A weight of which everything is kept shares storage with the module (no copy).
        """
        tensors = self.view.params()
        if dtype is not None:
            tensors = {k: t.to(dtype) if t.is_floating_point() else t for k, t in tensors.items()}
        for name, keep in self.mask.keep.items():
            value = tensors[name]
            if not bool(keep.all()):
                value = value.masked_fill(~keep.to(value.device), 0.0)
            tensors[name] = value.detach().requires_grad_()
        return tensors
