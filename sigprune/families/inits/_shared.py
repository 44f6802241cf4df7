"""Random orthogonal matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sigprune.values.block_spec import BlockSpec


def semi_orthogonal(spec: BlockSpec, rows: int, columns: int) -> Tensor:
    """A random float64 matrix with orthonormal rows (rows <= columns) or columns.

    For a standardised weight its rows have zero mean and equal norms too. They span one dimension less then:
    with rows >= columns it is a tight frame of that space (all singular values 1 but for a single 0).
    """
    if not spec.standardised or columns == 1:
        return haar(spec, rows, columns)
    inner = haar(spec, rows, columns - 1)
    if rows >= columns:
        inner = _with_equal_rows(inner)
    # the Householder reflection that takes the first unit vector to the constant one
    mirror = torch.full((columns,), -1 / math.sqrt(columns), dtype=torch.float64)
    mirror[0] += 1
    matrix = torch.nn.functional.pad(inner, (1, 0))
    return matrix - torch.outer(matrix @ mirror, mirror * (2 / mirror.square().sum()))


def haar(spec: BlockSpec, rows: int, columns: int) -> Tensor:
    """A float64 matrix, uniform (Haar) among those with orthonormal rows (rows <= columns) or columns.

    QR of a Gaussian, with the signs fixed by the diagonal of R so that the distribution is uniform (Mezzadri
    2007, arXiv math-ph/0609050).
    """
    tall = spec.gaussian(max(rows, columns), min(rows, columns))
    q, r = torch.linalg.qr(tall)
    uniform: Tensor = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return uniform if rows >= columns else uniform.T.contiguous()


def _with_equal_rows(frame: Tensor) -> Tensor:
    """Rotate pairs of rows until all have one norm; the columns stay orthonormal.

    Each rotation gives one row that norm: at most rows - 1 of them (Bendel and Mickey 1978, Population
    correlation matrices for sampling experiments; Davies and Higham 2000).
    """
    frame, wanted = frame.clone(), frame.shape[1] / frame.shape[0]
    squares = frame.square().sum(1)
    for _ in range(len(frame) - 1):
        low, high = int(squares.argmin()), int(squares.argmax())
        short, long = float(squares[low]) - wanted, float(squares[high]) - wanted
        if long < 1e-14:
            break
        # |low + x high|² = wanted (1 + x²): long x² + 2 cross x + short = 0, by its smaller root
        cross = float(frame[low] @ frame[high])
        x = -short / (cross + math.copysign(math.sqrt(cross**2 - short * long), cross))
        turn = torch.tensor([[1, x], [-x, 1]], dtype=torch.float64) / math.hypot(1, x)
        pair = torch.tensor([low, high])
        frame[pair] = turn @ frame[pair]
        squares[low], squares[high] = wanted, wanted + short + long
    return frame
