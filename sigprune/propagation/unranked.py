"""What a score cannot rank: weights and blocks of which every entry has the score zero, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from sigprune.base.tensors import Tensors
from sigprune.propagation.emptied import blocks_listed, empty_blocks, listed
from sigprune.values.finding import Finding
from sigprune.values.mask import Mask
from sigprune.values.view import View

Blocks = Mapping[str, tuple[tuple[int, ...], int]]
"""Name of a weight -> numbers of some of its blocks, and how many it has."""


_UNROUTED = "no example reached these experts, so that |weight| alone ranks them; score with more examples"


@dataclass(frozen=True)
class Unranked:
    """What got no scores in the first round.

    Attributes:
        weights: names of weights whose scores are all zero.
        blocks: blocks (one of q, k and v, a convolution group) of other weights, likewise.
        unrouted: experts that no example reached; they are ranked by magnitude instead. A weight that is one
            expert has one block.
        cause: why the scores are zero, and what to do.
    """

    weights: tuple[str, ...] = ()
    blocks: Blocks = field(default_factory=dict)
    unrouted: Blocks = field(default_factory=dict)
    cause: str = ""

    def findings(self) -> tuple[Finding, ...]:
        """Those about blocks; whole weights are a finding with bounds of the recipe."""
        causes = {"dead_blocks": (self.blocks, self.cause), "unrouted_experts": (self.unrouted, _UNROUTED)}
        return tuple(
            Finding(name, blocks_listed(blocks), _count(blocks), 0, 0, remedy=remedy)
            for name, (blocks, remedy) in causes.items()
            if blocks
        )

    @property
    def unrouted_warning(self) -> str:
        """One line about experts that no example reached; empty if there are none."""
        return f"of {blocks_listed(self.unrouted)}: {_UNROUTED}" if self.unrouted else ""

    def __str__(self) -> str:
        """One line about weights and blocks without scores; empty if there are none."""
        numbers = {"weights": len(self.weights), "blocks": _count(self.blocks)}
        parts = [f"{number} {what}" for what, number in numbers.items() if number]
        names = "; ".join(filter(None, (listed(self.weights), blocks_listed(self.blocks))))
        zero = f"every entry of {' and '.join(parts)} has the score zero ({names})"
        return f"{zero}: {self.cause}" if parts else ""


def unranked(view: View, ranked: Tensors, unrouted: Blocks) -> Unranked:
    """What the scores of the first round do not rank.

    A bias is zero at initialisation and then has zero scores by definition; a kernel of one channel is a
    unit of the network, not a block of it.
    """
    weights, blocks = [], {}
    for weight in view.weights:
        values = ranked.get(weight.name)
        if values is None:
            continue
        if not bool(values.any()):
            weights.append(weight.name)
        elif numbers := empty_blocks(weight, values):
            blocks[weight.name] = numbers, weight.block_count
    cause = cause_of(view, tuple(weights)) if weights or blocks else ""
    return Unranked(tuple(weights), blocks, unrouted, cause)


def cause_of(view: View, dead: tuple[str, ...]) -> str:
    """Why scores are zero: closed gates, an objective that nothing changes, or parts without effect."""
    params = view.params()
    gates = [replace(gate, value=float(params[gate.name].abs().max())) for gate in view.gates]
    closed = [gate.name for gate in gates if gate.closed]
    if closed:
        return (
            f"a closed gate ({listed(closed, 3)}) lets no gradient through: set init.gates: open, or "
            "reinit_(view, ..., gates='open')"
        )
    if {weight.name for weight in view.weights if weight.role != "embedding"} <= {*dead}:
        with torch.no_grad():
            output = view.forward({}, view.example)
        if output.dim() > 1 and output.shape[-1] == 1:
            return "the output is a single number: of one class no loss depends on it; score with two or more"
        return "the objective does not change with any weight: look at the data (inputs of zeros?)"
    return (
        "a part that the output does not depend on at these examples (queries and keys of a single token, "
        "units that are never active): score with more or other examples, or exclude it"
    )


def rank_unrouted_(view: View, ranked: Tensors, mask: Mask) -> Blocks:
    """Give experts that no example reached the scores |weight|, in place, at the scale of their sisters.

    Scores of experts that were reached are, on the mean, so many times their magnitudes; with the same factor
    those that were not neither go first nor stay whole, and within each the larger entries count more.

    Returns:
        The experts; none if all of them, or none, were reached.
    """
    params = view.params()
    found: dict[str, tuple[tuple[int, ...], int]] = {}
    empty: dict[str, tuple[int, ...]] = {}
    sums: dict[object, list[float]] = {}  # of |score| and of |weight|, of this weight and of all of its shape
    for weight in view.weights:
        if weight.role != "expert" or weight.name not in ranked:
            continue
        scores = list(weight.layout.blocks(ranked[weight.name]))
        values = list(weight.layout.blocks(params[weight.name].detach()))
        kept = list(weight.layout.blocks(mask.keep[weight.name]))
        empty[weight.name] = tuple(
            n for n, block in enumerate(scores) if not bool(block.any()) and bool(kept[n].any())
        )
        for n, block in enumerate(scores):
            for key in (weight.name, weight.shape[-2:]) if n not in empty[weight.name] else ():
                total = sums.setdefault(key, [0.0, 0.0])
                total[0] += float(block.abs().sum(dtype=torch.float64))
                total[1] += float(values[n].abs().sum(dtype=torch.float64))
    for weight in view.weights:
        numbers = empty.get(weight.name, ())
        score, size = sums.get(weight.name) or sums.get(weight.shape[-2:]) or (0.0, 0.0)
        if not numbers or not score or not size:
            continue
        places = list(weight.layout.blocks(ranked[weight.name]))
        for n, block in enumerate(weight.layout.blocks(params[weight.name].detach())):
            if n in numbers:
                places[n].copy_(block.abs().mul(score / size))
        found[weight.name] = numbers, len(places)
    return found


def _count(blocks: Blocks) -> int:
    return sum(len(numbers) for numbers, _ in blocks.values())
