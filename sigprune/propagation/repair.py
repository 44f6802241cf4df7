"""Restoring isometry: kept entries are moved until the rows of every block are nearly orthonormal."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.base.progress import ProgressCallback, ignore
from sigprune.base.registry import BoundMember, MemberSpec
from sigprune.base.renamed import old_keywords
from sigprune.families.repairs import Repair, repairs
from sigprune.values.mask import Mask
from sigprune.values.origin import same_origin
from sigprune.values.orthogonality import Target, floor, residual
from sigprune.values.view import View, expect_view


@dataclass(frozen=True)
class Restoration:
    """Mean residual ``|| B Bᵀ / gain² - I ||_F`` over the blocks of every weight, before and after.

    Attributes:
        before: by name of the weight, its entries masked.
        after: by name, of the values as stored.
        floor: by name, a bound that no values of the kept entries go below: the rows and columns that keep
            nothing take away from the rank.
    """

    before: dict[str, float]
    after: dict[str, float]
    floor: dict[str, float]

    @property
    def score_before(self) -> float:
        """Mean over weights: the orthogonality score of Lee et al. 2020, Table 2."""
        return _mean(list(self.before.values()))

    @property
    def score_after(self) -> float:
        """Mean over weights, afterwards."""
        return _mean(list(self.after.values()))

    @property
    def score_floor(self) -> float:
        """Mean over weights of the bounds."""
        return _mean(list(self.floor.values()))


@old_keywords(report="on_progress")
def restore_(
    view: View,
    mask: Mask,
    isometry: str | MemberSpec | ModuleType = "lbfgs",
    *,
    gain: float | Mapping[str, float] = 1.0,
    on_progress: ProgressCallback = ignore,
) -> Restoration:
    """Move the kept entries of every masked weight towards orthonormal rows, in place, without data.

    A convolution is treated as its flattened matrix (out, in · prod(kernel)), as in the paper; with
    ``MemberSpec("lbfgs", {"target": "operator"})`` as the map that it is. Blocks of equal shape are solved
    together. Embeddings and biases are left alone, and so is a block that would be stored no nearer to
    isometry.

    Args:
        view: the network; removed entries are set to zero first.
        mask: which entries are kept.
        isometry: a member of the repairs family.
        gain: the singular value aimed at, that of the initialisation (1.0 in the paper), or one for each
            weight by name.
        on_progress: called with (blocks solved, blocks in total).

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
    choice = repairs.choose(isometry)
    with same_origin(view.module):
        mask.apply_(view.params())
    groups = _groups(view, mask)
    blocks, solved = sum(map(len, groups)), 0
    residuals_of: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    with torch.no_grad(), same_origin(view.module):
        for group in groups:
            aims = [gains[name] for name, _, _ in group]
            for (name, _, _), found in zip(group, _solve(group, aims, choice), strict=True):
                residuals_of[name].append(found)
            solved += len(group)
            on_progress(solved, blocks)
    means = {name: [_mean(side) for side in zip(*found, strict=True)] for name, found in residuals_of.items()}
    return Restoration(*({name: sides[n] for name, sides in means.items()} for n in range(3)))


def _solve(
    group: list[tuple[str, Tensor, Tensor]], aims: list[float], choice: BoundMember[Repair]
) -> list[tuple[float, float, float]]:
    """Bring blocks of one shape to their gains, in place: the residual before and after, and its bound."""
    target: Target = "operator" if choice.options.get("target") == "operator" else "kernel"
    keep = torch.stack([kept for _, _, kept in group])
    old = torch.stack([block for _, block, _ in group]).to(_working_dtype(group[0][1]))
    gain = old.new_tensor(aims).reshape(-1, *(1 for _ in old.shape[1:]))
    old /= gain
    new = (choice.member.restore(old, keep, **choice.options) * gain).to(group[0][1].dtype)
    before, after = residual(old, target), residual(new.to(old) / gain, target)
    for (_, block, _), mine, better in zip(group, new, (after < before).tolist(), strict=True):
        if better:
            block.copy_(mine)
    sides = (before.tolist(), after.minimum(before).tolist(), floor(keep, target).tolist())
    return list(zip(*sides, strict=True))


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


def _mean(values: Sequence[float]) -> float:
    """Of no values it is zero: nothing was masked, so that nothing is away from isometry."""
    return sum(values) / max(len(values), 1)
