"""Singular values of one explicit matrix; maps with their smaller side first."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprune.values.operator import Operator

MAX_AT_ONCE = 2**24
"""Entries of a matrix that is factorised in one piece (128 MiB in float64)."""

WELL_CONDITIONED = 1e-4
"""Smallest over largest singular value from which squares tell both to eight digits."""


def singular_values(matrix: Tensor) -> Tensor:
    """All of them in float64, descending, on the CPU; NaN where the matrix is not finite.

    They come from the triangular factor of the taller side, which keeps small ones accurate. A large matrix
    is never copied whole: its Gram matrix serves where it is well conditioned, and else the triangular factor
    is gathered block by block (Demmel et al. 2012, arXiv 0808.2664).
    """
    if not bool(matrix.isfinite().all()):
        return torch.full((min(matrix.shape),), torch.nan, dtype=torch.float64)
    small, large = matrix.shape
    if small < large:
        length = large
        if matrix.numel() > MAX_AT_ONCE:
            squares = torch.linalg.eigvalsh(_gram(matrix, MAX_AT_ONCE // small + 1)).flip(0)
            if bool(squares[-1] > WELL_CONDITIONED**2 * squares[0]):
                values: Tensor = squares.sqrt()
                return values.cpu()
            length = max(MAX_AT_ONCE // small, 4 * small)
        factor = matrix.new_empty(0, small, dtype=torch.float64)
        for block in matrix.T.split(length):
            factor = torch.linalg.qr(torch.cat([factor, block.to(torch.float64)]), mode="r").R
        matrix = factor
    values = torch.linalg.svdvals(matrix.to(torch.float64))
    return values.cpu()


def _gram(matrix: Tensor, length: int) -> Tensor:
    """The lower triangle of M Mᵀ in float64, from so many columns at a time, a quarter of the rows each."""
    total = matrix.new_zeros(len(matrix), len(matrix), dtype=torch.float64)
    part = -(-len(matrix) // 4)
    for block in matrix.split(length, 1):
        columns = block.to(torch.float64)
        for start in range(0, len(matrix), part):
            rows = columns[start : start + part]
            total[start : start + part, : start + part].addmm_(rows, columns[: start + part].T)
    return total


def small_side_first(operator: Operator) -> Operator:
    """The maps, or their transposes, with outputs <= inputs; their singular values are the same."""
    return operator if operator.shape[0] <= operator.shape[1] else operator.adjoint
