"""Restoring isometry: kept entries are moved until the rows of every block are nearly orthonormal."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.base.family import Step
from sigprune.base.progress import Tell, ignore
from sigprune.families.isometries import isometries
from sigprune.values.mask import Mask
from sigprune.values.orthogonality import residual
from sigprune.values.view import View, expect_view


@dataclass(frozen=True)
class Restoration:
    """Mean residual ``|| B Bᵀ / gain² - I ||_F`` over the blocks of every weight, before and after."""

    before: dict[str, float]
    after: dict[str, float]

    @property
    def score_before(self) -> float:
        """Mean over weights: the orthogonality score of Lee et al. 2020, Table 2."""
        return _mean(list(self.before.values()))

    @property
    def score_after(self) -> float:
        """Mean over weights, afterwards."""
        return _mean(list(self.after.values()))


def restore_(
    view: View,
    mask: Mask,
    isometry: str | Step | ModuleType = "barzilai_borwein",
    *,
    gain: float | Mapping[str, float] = 1.0,
    report: Tell = ignore,
) -> Restoration:
    """Move the kept entries of every masked weight towards orthonormal rows, in place, without data.

    A convolution is treated as its flattened matrix (out, in · prod(kernel)), as in the paper. Blocks of
    equal shape are solved together. Embeddings and biases are left alone.

    Args:
        view: the network; removed entries are set to zero first.
        mask: which entries are kept.
        isometry: a member of the isometries family.
        gain: the singular value aimed at, that of the initialisation (1.0 in the paper), or one for each
            weight by name.
        report: called with (blocks solved, blocks in all).

    Returns:
        Restoration: the residuals per weight.

    Raises:
        BadInput: a gain that is missing or not positive, or a mask of another network.

    Example:
        >>> from sigprune import describe, prune, reinit_, restore_
        >>> view = describe(torch.nn.Linear(16, 16))
        >>> _ = reinit_(view)
        >>> mask = prune(view, sparsity=0.5, score="random")
        >>> done = restore_(view, mask)
        >>> done.score_after < 0.5 * done.score_before
        True
    """
    expect_view(view)
    gains = _gains(view, mask, gain)
    choice = isometries.choose(isometry)
    mask.apply_(view.params())
    groups = _groups(view, mask)
    blocks, solved = sum(map(len, groups)), 0
    before: defaultdict[str, list[float]] = defaultdict(list)
    after: defaultdict[str, list[float]] = defaultdict(list)
    with torch.no_grad():
        for group in groups:
            old = torch.stack([block.flatten(1) for _, block, _ in group]).to(_working_dtype(group[0][1]))
            aims = [gains[name] for name, _, _ in group]
            old /= old.new_tensor(aims)[:, None, None]
            keep = torch.stack([kept.flatten(1) for _, _, kept in group])
            new = choice.member.restore(old, keep, **choice.options)
            for (name, block, _), aim, mine, was, now in zip(
                group, aims, new, residual(old), residual(new), strict=True
            ):
                block.copy_(aim * mine.reshape(block.shape))
                before[name].append(float(was))
                after[name].append(float(now))
            solved += len(group)
            report(solved, blocks)
    return Restoration(_means(before), _means(after))


def _gains(view: View, mask: Mask, gain: float | Mapping[str, float]) -> dict[str, float]:
    """One for each masked weight."""
    names = [weight.name for weight in view.weights if weight.name in mask.keep]
    gains = {name: gain.get(name, math.nan) if isinstance(gain, Mapping) else gain for name in names}
    for name, value in gains.items():
        if not value > 0:
            raise BadInput(
                f"{name}: the gain is the singular value aimed at: expected more than 0, got {value}"
            )
    return gains


def _groups(view: View, mask: Mask) -> list[list[tuple[str, Tensor, Tensor]]]:
    """Blocks of equal shape: name of the weight, the block, and what is kept of it (both views)."""
    groups: defaultdict[tuple[int, ...], list[tuple[str, Tensor, Tensor]]] = defaultdict(list)
    params = view.params()
    for weight in view.weights:
        if weight.name in mask.keep and weight.role != "embedding":
            keep = mask.keep[weight.name].to(params[weight.name].device)
            for block, kept in zip(
                weight.layout.blocks(params[weight.name]), weight.layout.blocks(keep), strict=True
            ):
                groups[tuple(block.shape)].append((weight.name, block, kept))
    return list(groups.values())


def _working_dtype(tensor: Tensor) -> torch.dtype:
    return tensor.dtype if tensor.dtype in {torch.float32, torch.float64} else torch.float32


def _means(residuals: dict[str, list[float]]) -> dict[str, float]:
    return {name: _mean(values) for name, values in residuals.items()}


def _mean(values: list[float]) -> float:
    """Of no values it is zero: nothing was masked, so that nothing is away from isometry."""
    return sum(values) / max(len(values), 1)
