"""Gradient descent on || B Bᵀ - I ||_F over the kept entries: the approximate isometry of the paper."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprune.base.registry import Count, Positive

PAPER = "Lee et al. 2020, arXiv 1906.06307, equation 7 and released code"


def restore(
    blocks: Tensor,
    keep: Tensor,
    *,
    lr: Positive = 0.1,
    steps: Count = 10_000,
    patience: int = 100,
    last: bool = False,
) -> Tensor:
    """Plain gradient descent with a constant rate; the best iterate of every block is returned.

    The norm is not squared, so that the step does not shrink near the optimum and the iterates end in a small
    cycle; a block whose gradient is undefined (residual exactly zero) stays as it is. The paper takes all
    ``steps`` and the last iterate, which are ``patience=0, last=True`` (for blocks that this leaves no worse
    than they were); here the descent ends once no block's best residual has fallen by 0.1 % in ``patience``
    steps. Cost: two products with the smaller Gram matrix per step.
    """
    shape, blocks, keep = blocks.shape, blocks.flatten(2), keep.flatten(2)
    rows, columns = blocks.shape[1:]
    if rows > columns:  # B Bᵀ B - B = B (Bᵀ B - I), so the smaller Gram matrix gives the same steps
        blocks, keep = blocks.mT, keep.mT
    excess = float(max(rows - columns, 0))
    removed = ~keep
    best, current = blocks.clone(), blocks.clone()
    lowest = blocks.new_full((len(blocks),), torch.inf)
    mark, since = lowest.clone(), 0
    first = residual = lowest
    for number in range(steps + 1):
        gram = current @ current.mT
        gram.diagonal(dim1=1, dim2=2).sub_(1.0)
        residual = (torch.linalg.matrix_norm(gram).square() + excess).sqrt()
        first = residual if number == 0 else first
        better = residual < lowest
        best[better], lowest = current[better], residual.minimum(lowest)
        fallen = lowest < 0.999 * mark
        mark, since = torch.where(fallen, lowest, mark), 0 if bool(fallen.any()) else since + 1
        if number == steps or (patience and since >= patience):
            break
        # d ||G||_F / dB = 2 G B / ||G||_F for G = B Bᵀ - I
        scale = torch.where(residual > 0, 2 * lr / residual, 0.0)
        current = current.sub(scale[:, None, None] * (gram @ current)).masked_fill_(removed, 0.0)
    if last:
        best = torch.where((residual <= first)[:, None, None], current, best)
    return (best.mT if rows > columns else best).reshape(shape)
