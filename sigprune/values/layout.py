"""Layouts: where the independent matrices (blocks) of a weight sit in its stored tensor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """How the blocks of one weight are stored; every block is seen as (out, in, *kernel).

    The stored tensor is read from the outside in: in another ``shape`` if one is given; then the leading
    expert axis if ``stacked``; then ``groups`` equal slices of the next axis; then the first two axes swapped
    if ``transposed``; then the rows split as ``fused`` says. Typical layouts: ``Layout()`` for (out, in) and
    (out, in, kh, kw); ``groups=8`` for a grouped convolution; ``transposed=True`` for GPT-2's (in, out) and
    for transposed convolutions; ``fused=(d, d, d)`` for stacked query, key and value projections;
    ``groups=heads, fused=(d, d, d)`` where they follow each other head by head.

    Attributes:
        shape: how the stored tensor is read first, in row-major order; empty: as it is.
        transposed: inputs come before outputs in the stored tensor.
        stacked: the first axis counts experts.
        groups: number of convolution groups.
        fused: rows of each block where several share one matrix; empty if they do not.
        interleaved: the ``fused`` blocks alternate row by row instead of following each other.
    """

    transposed: bool = False
    stacked: bool = False
    groups: int = 1
    fused: tuple[int, ...] = ()
    interleaved: bool = False
    shape: Shape = ()

    def __str__(self) -> str:
        """In words, from the outside in; empty for (out, in, *kernel) as it is."""
        same = len(set(self.fused)) == 1
        rows = f"{len(self.fused)} x {self.fused[0]}" if same else "+".join(map(str, self.fused))
        properties = {
            f"read as {'x'.join(map(str, self.shape))}": self.shape,
            "one matrix per expert": self.stacked,
            f"{self.groups} groups": self.groups > 1,
            "inputs first": self.transposed,
            f"{'alternating ' * self.interleaved}rows {rows}": self.fused,
        }
        return ", ".join(words for words, holds in properties.items() if holds)

    def blocks(self, tensor: Tensor) -> Iterator[Tensor]:
        """Views (out, in, *kernel) of the stored tensor that together cover every entry exactly once.

        The views share storage with ``tensor``: writing into them writes into it.

        Raises:
            ValueError: the tensor's shape does not fit the layout.
        """
        if self.shape:
            if math.prod(self.shape) != tensor.numel():
                raise ValueError(f"expected the entries of {self.shape}, got {tuple(tensor.shape)}")
            tensor = tensor.view(self.shape)
        for expert in tensor.unbind(0) if self.stacked else (tensor,):
            if expert.dim() < 2 or expert.shape[0] % self.groups:
                raise ValueError(
                    f"expected (out, in, ...) in {self.groups} groups, got {tuple(expert.shape)}"
                )
            for group in expert.chunk(self.groups, 0):
                yield from self._rows(group.transpose(0, 1) if self.transposed else group)

    def _rows(self, matrix: Tensor) -> Iterator[Tensor]:
        if not self.fused:
            yield matrix
            return
        if sum(self.fused) != matrix.shape[0]:
            raise ValueError(f"expected {sum(self.fused)} rows in blocks {self.fused}, got {matrix.shape[0]}")
        if self.interleaved:
            for start in range(len(self.fused)):
                yield matrix[start :: len(self.fused)]
        else:
            yield from matrix.split(list(self.fused), 0)


def fan_in(block: Shape) -> int:
    """Inputs of one output unit: in · prod(kernel), of a block (out, in, *kernel)."""
    return math.prod(block[1:])


def fan_out(block: Shape) -> int:
    """Outputs of one input unit: out · prod(kernel), of a block (out, in, *kernel)."""
    return block[0] * math.prod(block[2:])
