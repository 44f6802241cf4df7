"""Kept entries as vectors, and the matrices that they fill."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sigprune.values.layout import Shape
from sigprune.values.orthogonality import frequencies, kernels


@dataclass(frozen=True)
class Support:
    """Where the kept entries of many blocks of one shape sit, without the rows and columns that keep none.

    Blocks that keep fewer entries than the fullest one have padding: a position behind the last entry.

    Attributes:
        stored: (count, entries) positions in the flattened block as stored.
        places: (count, entries) positions in the flattened core: no empty rows and columns, rows <= columns.
        shape: of the core, (rows, columns, *kernel), the same for all blocks.
        rows: (count, rows) whether each of the core's rows keeps an entry.
    """

    stored: Tensor
    places: Tensor
    shape: Shape
    rows: Tensor

    @staticmethod
    def of(keep: Tensor) -> Support:
        """The support of blocks (count, rows, columns, *kernel)."""
        taps = keep[0, 0, 0].numel()
        flat = keep.flatten(1)
        counts = flat.sum(1)
        block, position = flat.nonzero(as_tuple=True)
        slot = torch.arange(len(block), device=keep.device) - (counts.cumsum(0) - counts)[block]
        used = keep.reshape(*keep.shape[:3], taps).any(3)
        rows, columns = used.any(2), used.any(1)
        row = (rows.cumsum(1) - 1)[block, position // (taps * keep.shape[2])]
        column = (columns.cumsum(1) - 1)[block, position // taps % keep.shape[2]]
        sizes = rows.sum(1), columns.sum(1)
        height, width = (int(size.max()) for size in sizes)
        if height > width:  # || B Bᵀ - I ||² and || Bᵀ B - I ||² differ by a constant
            row, column, height, width, sizes = column, row, width, height, sizes[::-1]
        stored = flat.new_full((len(keep), int(counts.max())), flat.shape[1], dtype=torch.int64)
        places = torch.full_like(stored, height * width * taps)
        stored[block, slot] = position
        places[block, slot] = (row * width + column) * taps + position % taps
        index = torch.arange(height, device=keep.device)
        return Support(stored, places, (height, width, *keep.shape[3:]), index < sizes[0][:, None])

    def take(self, chosen: Tensor) -> Support:
        """That of some of the blocks."""
        return Support(self.stored[chosen], self.places[chosen], self.shape, self.rows[chosen])

    def gather(self, blocks: Tensor) -> Tensor:
        """The kept entries of blocks as stored: (count, entries), padding zero."""
        return _gather(blocks, self.stored)

    def scatter(self, values: Tensor, shape: Shape) -> Tensor:
        """Blocks as stored, zero elsewhere."""
        return _scatter(values, self.stored, shape)

    def matrices(self, values: Tensor) -> Tensor:
        """(count, frequencies, rows, columns) of the cores with these kept entries."""
        return frequencies(_scatter(values, self.places, self.shape))

    def adjoint(self, matrices: Tensor) -> Tensor:
        """The kept entries of what :meth:`matrices` is transposed to."""
        return _gather(kernels(matrices, self.shape[2:]), self.places)


def _gather(blocks: Tensor, places: Tensor) -> Tensor:
    return torch.nn.functional.pad(blocks.flatten(1), (0, 1)).gather(1, places)


def _scatter(values: Tensor, places: Tensor, shape: Shape) -> Tensor:
    flat = values.new_zeros(len(values), torch.Size(shape).numel() + 1)
    return flat.scatter_(1, places, values)[:, :-1].reshape(len(values), *shape)
