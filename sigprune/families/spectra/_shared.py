"""Singular values of one explicit matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def singular_values(matrix: Tensor) -> Tensor:
    """All of them in float64, descending, on the CPU; NaN where the matrix is not finite.

    They come from the triangular factor of the taller side, which keeps small ones accurate.
    """
    if not bool(matrix.isfinite().all()):
        return torch.full((min(matrix.shape),), torch.nan, dtype=torch.float64)
    matrix = matrix.to(torch.float64)
    if matrix.shape[0] < matrix.shape[1]:
        matrix = torch.linalg.qr(matrix.T, mode="r").R
    values: Tensor = torch.linalg.svdvals(matrix)
    return values.cpu()
