"""Random orthogonal matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprune.values.slot import Slot


def semi_orthogonal(slot: Slot, rows: int, columns: int) -> Tensor:
    """A float64 matrix, uniform (Haar) among those with orthonormal rows (rows <= columns) or columns.

    QR of a Gaussian, with the signs fixed by the diagonal of R so that the distribution is uniform (Mezzadri
    2007, arXiv math-ph/0609050).
    """
    tall = slot.gaussian(max(rows, columns), min(rows, columns))
    q, r = torch.linalg.qr(tall)
    uniform: Tensor = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return uniform if rows >= columns else uniform.T.contiguous()
