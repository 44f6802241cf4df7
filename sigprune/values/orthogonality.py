"""How far blocks are from having orthonormal rows."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def residual(blocks: Tensor) -> Tensor:
    """``|| B Bᵀ - I ||_F`` of every block.

    Uses the smaller Gram matrix: ``||B Bᵀ - I||² = ||Bᵀ B - I||² + rows - columns``.

    Args:
        blocks: floating, shape (count, rows, columns).

    Returns:
        Shape (count,), the same dtype. Lee et al. 2020 average it over layers as the orthogonality score.

    Example:
        >>> residual(torch.eye(3)[None])
        tensor([0.])
    """
    rows, columns = blocks.shape[1:]
    small = blocks if rows <= columns else blocks.mT
    gram = small @ small.mT
    gram.diagonal(dim1=1, dim2=2).sub_(1.0)
    norm: Tensor = torch.linalg.matrix_norm(gram)
    return norm.square().add(max(rows - columns, 0)).sqrt()


def floor(rows: int, columns: int) -> float:
    """The smallest residual that any block of this shape can have: sqrt(max(rows - columns, 0))."""
    return math.sqrt(max(rows - columns, 0))


def singular_values(blocks: Iterable[Tensor]) -> Tensor:
    """All singular values of flattened blocks (out, in · prod(kernel)) in float64, without those that are 0.

    What is below 1e-9 of the block's largest counts as 0. Raises nothing of its own; costs an SVD per block.
    """
    found = (torch.linalg.svdvals(block.flatten(1).double()) for block in blocks)
    return torch.cat([values[values > 1e-9 * values.max()] for values in found])
