"""Restoring isometry: kept entries are moved until the rows of every block are nearly orthonormal."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from sigprune.base.family import Step
from sigprune.families.isometries import isometries
from sigprune.values.layout import Layout
from sigprune.values.mask import Mask
from sigprune.values.orthogonality import residual
from sigprune.values.view import View


@dataclass(frozen=True)
class Restoration:
    """Mean residual ``|| B Bᵀ / gain² - I ||_F`` over the blocks of every weight, before and after."""

    before: dict[str, float]
    after: dict[str, float]

    @property
    def score_before(self) -> float:
        """Mean over weights: the orthogonality score of Lee et al. 2020, Table 2."""
        return sum(self.before.values()) / len(self.before)

    @property
    def score_after(self) -> float:
        """Mean over weights, afterwards."""
        return sum(self.after.values()) / len(self.after)


def restore_(
    view: View, mask: Mask, isometry: str | Step | ModuleType = "barzilai_borwein", *, gain: float = 1.0
) -> Restoration:
    """Move the kept entries of every masked weight towards orthonormal rows, in place, without data.

    A convolution is treated as its flattened matrix (out, in · prod(kernel)), as in the paper. Blocks of
    equal shape are solved together. Embeddings and biases are left alone.

    Args:
        view: the network; removed entries are set to zero first.
        mask: which entries are kept.
        isometry: a member of the isometries family.
        gain: the singular value aimed at, that of the initialisation; 1.0 in the paper.

    Returns:
        Restoration: the residuals per weight.

    Example:
        >>> from sigprune import describe, prune, reinit_, restore_
        >>> view = describe(torch.nn.Linear(16, 16))
        >>> _ = reinit_(view)
        >>> mask = prune(view, sparsity=0.5, score="random")
        >>> done = restore_(view, mask)
        >>> done.score_after < 0.5 * done.score_before
        True
    """
    choice = isometries.choose(isometry)
    params = view.params()
    mask.apply_(params)
    groups: defaultdict[tuple[int, ...], list[tuple[str, Tensor, Tensor]]] = defaultdict(list)
    for weight in view.weights:
        if weight.name in mask.keep and weight.role != "embedding":
            keep = mask.keep[weight.name].to(params[weight.name].device)
            for block, kept in _pairs(weight.layout, params[weight.name], keep):
                groups[tuple(block.shape)].append((weight.name, block, kept))
    before: defaultdict[str, list[float]] = defaultdict(list)
    after: defaultdict[str, list[float]] = defaultdict(list)
    with torch.no_grad():
        for group in groups.values():
            blocks = (
                torch.stack([block.flatten(1) for _, block, _ in group]).to(_working_dtype(group[0][1]))
                / gain
            )
            keep = torch.stack([kept.flatten(1) for _, _, kept in group])
            solved = choice.member.restore(blocks, keep, **choice.options)
            for (name, block, _), new, old in zip(group, solved, blocks, strict=True):
                block.copy_(gain * new.reshape(block.shape))
                before[name].append(float(residual(old[None])))
                after[name].append(float(residual(new[None])))
    return Restoration(_means(before), _means(after))


def _pairs(layout: Layout, tensor: Tensor, keep: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(layout.blocks(tensor), layout.blocks(keep), strict=True))


def _working_dtype(tensor: Tensor) -> torch.dtype:
    return tensor.dtype if tensor.dtype in {torch.float32, torch.float64} else torch.float32


def _means(residuals: dict[str, list[float]]) -> dict[str, float]:
    return {name: sum(values) / len(values) for name, values in residuals.items()}
