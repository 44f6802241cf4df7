"""What a mask empties: whole weights, blocks of a weight, every path from the input to the output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sigprune.format.manifest import Manifest
from sigprune.propagation.reachability import connected, responds
from sigprune.values.finding import Finding, Findings
from sigprune.values.mask import Mask
from sigprune.values.view import View
from sigprune.values.weight import Weight

FOLLOWED = 2**28
"""Parameters up to which paths are followed: all of them are drawn in float64 for that, here 2 GB."""

_SPARSE = 0.01
"""Density from which a kept entry in every row means a path; below, all taps kept may meet padding only."""

ROUNDING = 16 * torch.finfo(torch.float32).eps
"""Relative size of what counts as zero."""

KEEPING = (
    "keep some of each with a floor (allocation: {name: pooled, floor: 0.01}) or another allocation (erk, "
    "uniform), exclude them, or lower the sparsity"
)
"""What keeps a mask from emptying anything."""


class EmptiedWeights(UserWarning):
    """A mask keeps nothing of a weight, of a block of one, or of any path from the input to the output."""


@dataclass(frozen=True)
class Emptied:
    """What a mask keeps nothing of.

    Attributes:
        weights: names of weights.
        blocks: name of a weight that keeps something -> numbers of its blocks (one of q, k and v, an expert,
            a convolution group) that keep nothing, and how many it has.
        cut: no path is left from the input to the output; False too where paths cannot be followed.
        total: weights under the mask.
    """

    weights: tuple[str, ...] = ()
    blocks: Mapping[str, tuple[tuple[int, ...], int]] = field(default_factory=dict)
    cut: bool = False
    total: int = 0

    def __add__(self, other: Emptied) -> Emptied:
        return Emptied(
            self.weights + other.weights,
            {**self.blocks, **other.blocks},
            self.cut or other.cut,
            self.total + other.total,
        )

    def findings(self) -> Findings:
        """One for each kind of thing that is emptied; none if nothing is."""
        found = []
        if self.weights:
            count, names = len(self.weights), listed(self.weights)
            found.append(Finding("collapsed_weights", names, count, 0, 0, remedy=KEEPING))
        if self.blocks:
            count = sum(len(numbers) for numbers, _ in self.blocks.values())
            found.append(Finding("collapsed_blocks", blocks_listed(self.blocks), count, 0, 0, remedy=KEEPING))
        if self.cut:
            remedy = "the output depends on no input: lower the sparsity, or take another allocation (erk)"
            found.append(Finding("open_path", "from the input to the output", 0, 1, 1, remedy=remedy))
        return Findings(tuple(found))

    def __str__(self) -> str:
        """One line that says all of it and what to do; empty if nothing is emptied."""
        parts = []
        if self.weights:
            parts.append(f"{len(self.weights)} of {self.total} weights ({listed(self.weights)})")
        if self.blocks:
            count = sum(len(numbers) for numbers, _ in self.blocks.values())
            parts.append(f"{count} blocks ({blocks_listed(self.blocks)})")
        losses = [f"keeps nothing of {' and of '.join(parts)}"] if parts else []
        losses += ["leaves no path from the input to the output"] if self.cut else []
        return f"the mask {' and '.join(losses)}: {KEEPING}" if losses else ""


def emptied(view: View, mask: Mask) -> Emptied:
    """What a mask of this network keeps nothing of.

    Kernels of one channel each (depthwise) are units of a network, not blocks, and biases are no weights.

    Cost: a pass over the mask. Paths are followed only if some row of a weight keeps nothing, or the whole
    less than a hundredth, and in networks of up to :data:`FOLLOWED` parameters: a forward and a backward pass
    for one example, and, where the output does not respond, a forward-mode pass in float64.
    """
    found, rows = Emptied(), True
    for weight in view.weights:
        keep = mask.keep.get(weight.name)
        if keep is not None:
            found += emptied_part(weight, keep)
            if weight.role != "embedding":
                rows &= all(bool(block.flatten(1).any(1).all()) for block in weight.layout.blocks(keep))
    sparse = not rows or mask.kept < _SPARSE * mask.total
    return replace(found, cut=sparse and _is_cut(view, mask))


def emptied_part(weight: Weight, keep: Tensor) -> Emptied:
    """What the mask of one weight keeps nothing of."""
    if keep.numel() and not bool(keep.any()):
        return Emptied((weight.name,), total=1)
    numbers = empty_blocks(weight, keep)
    blocks = {weight.name: (numbers, weight.block_count)} if numbers else {}
    return Emptied(blocks=blocks, total=1)


def empty_blocks(weight: Weight, values: Tensor) -> tuple[int, ...]:
    """The numbers of the blocks without a value other than zero, of a weight with several.

    What is smaller than the largest value of the weight by :data:`ROUNDING` is a rounding error: softmax of a
    single token is constant, but not in every kernel to the last bit.
    """
    if weight.depthwise:
        return ()
    largest = [float(block.abs().amax()) for block in weight.layout.blocks(values.float())]
    least = ROUNDING * max(largest)
    return tuple(n for n, one in enumerate(largest) if one <= least) if len(largest) > 1 else ()


def _is_cut(view: View, mask: Mask) -> bool:
    if sum(p.numel() for p in view.module.parameters()) > FOLLOWED:
        return False
    with suppress(Exception):  # whatever a model raises for its example, or in a backward pass
        if responds(view, mask):
            return False
    try:
        return not connected(view, mask)
    except Exception:  # integers only, no forward-mode derivative, or an example that it does not take
        return False


def emptied_in(manifest: Manifest) -> tuple[str, ...]:
    """What a checkpoint says of itself: the findings that were stored, else the tensors that keep nothing."""
    recorded = manifest.provenance.get("findings")
    if isinstance(recorded, list) and recorded:
        return tuple(" ".join(str(line).split()) for line in recorded)
    names = [name for name, entry in manifest.tensors.items() if entry.kept == 0 and len(entry.shape) > 1]
    return tuple(map(str, Emptied(tuple(names)).findings()))


def listed(names: Sequence[str], most: int = 40) -> str:
    """Names with commas between; of very many the first ones, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def blocks_listed(blocks: Mapping[str, tuple[Iterable[int], int]]) -> str:
    """``name: blocks 0, 2 of 3`` for each weight; blocks count from 0."""
    lines = []
    for name, (numbers, total) in blocks.items():
        own = [str(number) for number in numbers]
        lines.append(f"{name}: block{'s' if len(own) > 1 else ''} {listed(own)} of {total}")
    return listed(lines)
