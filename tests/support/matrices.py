"""Matrices with prescribed singular values, as operators."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprune.base.rng import generator
from sigprune.values.operator import Operator


def dense_operator(matrices: Tensor) -> Operator:
    """An operator from explicit matrices (examples, outputs, inputs)."""
    return Operator(
        tuple(matrices.shape[1:]),
        len(matrices),
        lambda v: torch.einsum("eoi,kei->keo", matrices, v),
        lambda u: torch.einsum("eoi,keo->kei", matrices, u),
        matrices.dtype,
    )


def diagonal_operator(values: Tensor) -> Operator:
    """Square maps with these values (examples, n) on their diagonals: to uniform probes as good as any."""
    shape = (values.shape[1], values.shape[1])
    return Operator(shape, len(values), lambda v: v * values, lambda u: u * values, values.dtype)


def prescribed(values: Tensor, inputs: int, seed: int = 0) -> Tensor:
    """A float64 matrix (len(values), inputs) with these singular values."""
    draw = generator(seed, "test", "prescribed")
    n = len(values)
    left = torch.linalg.qr(torch.randn(n, n, generator=draw, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(inputs, n, generator=draw, dtype=torch.float64))[0]
    return left @ torch.diag(values) @ right.T


def hilbert(rows: int, columns: int) -> Tensor:
    """Entries 1 / (i + j + 1): singular values fall to the rounding error within a dozen."""
    return 1 / (torch.arange(rows)[:, None] + torch.arange(columns) + 1).double()
