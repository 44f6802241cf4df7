"""Singular values of one explicit matrix; maps with their smaller side first."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprune.values.operator import Operator

MOST_AT_ONCE = 2**24
"""Entries of a matrix that is factorised in one piece (128 MiB in float64)."""


def singular_values(matrix: Tensor) -> Tensor:
    """All of them in float64, descending, on the CPU; NaN where the matrix is not finite.

    They come from the triangular factor of the taller side, which keeps small ones accurate. That of a large
    matrix is gathered block by block (Demmel et al. 2012, arXiv 0808.2664), so that it is never copied whole.
    """
    if not bool(matrix.isfinite().all()):
        return torch.full((min(matrix.shape),), torch.nan, dtype=torch.float64)
    small, large = matrix.shape
    if small < large:
        length = max(MOST_AT_ONCE // small, 4 * small) if matrix.numel() > MOST_AT_ONCE else large
        factor = matrix.new_empty(0, small, dtype=torch.float64)
        for block in matrix.T.split(length):
            factor = torch.linalg.qr(torch.cat([factor, block.to(torch.float64)]), mode="r").R
        matrix = factor
    values: Tensor = torch.linalg.svdvals(matrix.to(torch.float64))
    return values.cpu()


def small_side_first(operator: Operator) -> Operator:
    """The maps, or their transposes, with outputs <= inputs; their singular values are the same."""
    return operator if operator.shape[0] <= operator.shape[1] else operator.adjoint
