"""Gradient descent on || B Bᵀ - I ||²_F over the kept entries, with Barzilai-Borwein steps per block."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprune.base.family import Count, Positive

PAPER = "Lee et al. 2020, arXiv 1906.06307, section 4 (objective); Barzilai and Borwein 1988 (steps)"

_FIRST, _LONGEST = 0.5, 10.0


def restore(
    blocks: Tensor, keep: Tensor, *, steps: Count = 300, tolerance: Positive = 0.02, patience: Count = 10
) -> Tensor:
    """The best iterate of every block; it needs some 50 steps where a constant rate needs over a thousand.

    Each block has its own step length, from its last two iterates and gradients (the long and the short
    formula in turn), so that residuals need not fall at every step. The descent ends after ``steps``, or once
    no block above ``tolerance`` (residual per root of rows, where a constant rate of 0.1 starts to cycle) has
    lost 5 % of its best in ``patience`` steps. Cost: two products with the smaller Gram matrix per step;
    memory: six copies of the blocks.
    """
    rows, columns = blocks.shape[1:]
    if rows > columns:  # || B Bᵀ - I ||² and || Bᵀ B - I ||² differ by a constant
        blocks, keep = blocks.mT, keep.mT
    best, lowest = blocks.clone(), blocks.new_full((len(blocks),), torch.inf)
    mark, since = lowest.clone(), 0
    current, gradient, residual = blocks, *_slope(blocks, keep)
    length = blocks.new_full((len(blocks), 1, 1), _FIRST)
    for number in range(steps):
        better = residual < lowest
        best[better], lowest = current[better], residual.minimum(lowest)
        fallen = (lowest < 0.95 * mark) & (lowest > tolerance * blocks.shape[1] ** 0.5)
        mark, since = torch.where(fallen, lowest, mark), 0 if bool(fallen.any()) else since + 1
        if since >= patience:
            break
        moved = current - length * gradient
        slope, residual = _slope(moved, keep)
        length = _length(moved - current, slope - gradient, long=number % 2 == 0)
        current, gradient = moved, slope
    better = residual < lowest
    best[better] = current[better]
    return best.mT.contiguous() if rows > columns else best


def _slope(blocks: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient (B Bᵀ - I) B of a quarter of the squared residual, on kept entries, and the residual."""
    gram = blocks @ blocks.mT
    gram.diagonal(dim1=1, dim2=2).sub_(1.0)
    return (gram @ blocks).masked_fill_(~keep, 0.0), torch.linalg.matrix_norm(gram)


def _length(step: Tensor, change: Tensor, *, long: bool) -> Tensor:
    """<s, s> / <s, y> or <s, y> / <y, y>; the first step again where the curvature is not positive."""
    curvature = (step * change).sum((1, 2), keepdim=True)
    if long:
        length = step.square().sum((1, 2), keepdim=True) / curvature
    else:
        length = curvature / change.square().sum((1, 2), keepdim=True)
    return torch.where(curvature > 0, length.clamp(max=_LONGEST), torch.full_like(length, _FIRST))
