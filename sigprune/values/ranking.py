"""Rankings: scores with a number of entries to keep, what allocations and patterns are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from sigprune.base.seeds import generator as stream
from sigprune.base.tensors import Tensors
from sigprune.values.layout import Layout, Shape
from sigprune.values.weight import Role

CHUNK = 2**20
"""Entries that are looked at together: what bounds the memory of passes over large tensors."""

_SAMPLE = 2**15


@dataclass(frozen=True)
class Site:
    """What is known of a prunable tensor besides its scores.

    Attributes:
        blocks: shapes (out, in, *kernel) of its blocks; one of (n,) for a bias.
        layout: where its blocks sit; None for a bias, which is a block of n outputs with one input.
        role: what it does in the network.
        stem: it is the network's first convolution, in order of definition.
    """

    blocks: tuple[Shape, ...]
    layout: Layout | None = Layout()  # noqa: RUF009 - frozen
    role: Role | Literal["bias"] = "linear"
    stem: bool = False

    def rows(self, tensor: Tensor) -> Iterator[Tensor]:
        """Views (out, *kernel, in) of the blocks, so that ``flatten(1)`` gives the matrix of one.

        Its columns are in the order of sparse tensor-core kernels (channels last): the inputs of one place of
        the kernel follow each other. Writing into a view writes into the (contiguous) tensor.
        """
        if self.layout is None:
            yield tensor.reshape(-1, 1)
        else:
            for block in self.layout.blocks(tensor):
                yield block.movedim(1, -1)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Scores of all prunable weights and the number of entries to keep among them.

    Attributes:
        scores: name -> floating scores in the stored shape, minus infinity where an entry was removed
            earlier; in order of definition.
        capacity: name -> entries not removed earlier.
        sites: name -> what the tensor is.
        budget: entries to keep in all, at most the sum of the capacities.
        limits: thresholds of all scores together that were looked for, by their rank; an allocation leaves
            them for the pattern.
        generator: breaks ties between weights, so that position never does.
        ties: name -> a generator that breaks ties within that weight.
    """

    scores: Tensors
    capacity: Mapping[str, int]
    sites: Mapping[str, Site]
    budget: int
    generator: torch.Generator
    ties: Callable[[str], torch.Generator]
    limits: dict[int, Tensor] = field(default_factory=dict)

    def sizes(self) -> dict[str, int]:
        """Name -> number of entries."""
        return {name: score.numel() for name, score in self.scores.items()}


def threshold(parts: Sequence[Tensor], count: int) -> tuple[Tensor, int]:
    """The count-th largest value among all entries, and how many of those equal to it belong to the top.

    A random sample brackets the value; one pass counts what lies outside of the bracket and collects what
    lies strictly inside, which then is searched. The answer is exact whatever the sample was. Ties cost
    nothing: what equals an end of the bracket is only counted.

    Args:
        parts: at least one, without NaN, of any shapes.
        count: 1 ... number of entries.

    Returns:
        The value as a scalar tensor, and ``count`` minus the number of larger entries. Linear time; memory:
        about 5 % of the entries where there are many, and chunks of :data:`CHUNK`.
    """
    parts = [part.reshape(-1) for part in parts]
    dtype = reduce(torch.promote_types, {part.dtype for part in parts})
    total = sum(len(part) for part in parts)
    low, high = (-torch.inf, torch.inf) if total <= 8 * _SAMPLE else _bracket(parts, count / total)
    while True:
        larger, at_high, inside, at_low = _split(parts, low, high, dtype)
        if count <= larger:  # the sample misled: look on above, then below
            low, high = high, torch.inf
        elif count <= larger + at_high:
            return torch.tensor(high, dtype=dtype, device=inside.device), count - larger
        elif count <= larger + at_high + len(inside):
            limit = _largest(inside, count - larger - at_high)
            return limit, count - larger - at_high - int((inside > limit).count_nonzero())
        elif count <= larger + at_high + len(inside) + at_low:
            return torch.tensor(low, dtype=dtype, device=inside.device), (
                count - larger - at_high - len(inside)
            )
        else:
            low, high = -torch.inf, low


def _bracket(parts: Sequence[Tensor], share: float) -> tuple[float, float]:
    """Values that the threshold lies between, but for about one sample in 10^8."""
    total = sum(len(part) for part in parts)
    draws = stream(0, "threshold", "sample")
    sample = torch.cat([
        part[torch.randint(len(part), (1 + _SAMPLE * len(part) // total,), generator=draws).to(part.device)]
        .double()
        .cpu()
        for part in parts
        if len(part)
    ])
    ordered = sample.sort(descending=True).values
    middle, margin = share * len(ordered), 6 * (len(ordered) * share * (1 - share)) ** 0.5 + 6
    first, last = int(middle - margin), int(middle + margin)
    high = float(ordered[first]) if first >= 0 else torch.inf
    return (float(ordered[last]) if last < len(ordered) else -torch.inf), high


def _split(
    parts: Sequence[Tensor], low: float, high: float, dtype: torch.dtype
) -> tuple[int, int, Tensor, int]:
    """How many entries are larger than ``high``, equal it, equal ``low``; and those strictly between."""
    larger = at_high = at_low = 0
    inside = [parts[0].new_empty(0, dtype=dtype)]
    for chunk in (chunk.to(dtype) for part in parts for chunk in part.split(CHUNK)):
        below = chunk < high
        at_high += int((chunk == high).count_nonzero())
        larger += len(chunk) - int(below.count_nonzero())
        inside.append(chunk[below.logical_and_(chunk > low)])
        at_low += int((chunk == low).count_nonzero()) if low < high else 0
    return larger - at_high, at_high, torch.cat(inside), at_low


def _largest(values: Tensor, count: int) -> Tensor:
    rank = len(values) - count
    if values.is_cpu:  # numpy's vectorised selection: a fifth of the time of torch's
        own = values.numpy()
        own.partition(rank)
        return torch.tensor(own[rank])
    return values.kthvalue(rank + 1).values


def pick(count: int, total: int, generator: torch.Generator) -> Tensor:
    """``count`` different indices out of ``total``, every subset equally likely, on the CPU."""
    return torch.randperm(total, generator=generator)[:count]
