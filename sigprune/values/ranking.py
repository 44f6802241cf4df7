"""Rankings: scores with a number of entries to keep, what allocations and patterns are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.base.rng import generator as stream
from sigprune.base.tensors import Tensors, tally
from sigprune.values.layout import Layout, Shape
from sigprune.values.weight import Role

CHUNK = 2**18
"""Entries that are looked at together: what bounds the memory of passes over large tensors."""

_SAMPLE = 2**16


@dataclass(frozen=True)
class Site:
    """What is known of a prunable tensor besides its scores.

    Attributes:
        blocks: shapes (out, in, *kernel) of its blocks; one of (n,) for a bias.
        layout: where its blocks sit; None for a bias, which is a block of n outputs with one input.
        role: what it does in the network.
        stem: it is the network's first convolution, in order of definition.
        divided: axes of the stored tensor over which the norms are taken that it is divided by, if it is;
            each filter (entries that share a norm) keeps an entry then.
        filters: how many filters there are; 0 where ``divided`` is None.
    """

    blocks: tuple[Shape, ...]
    layout: Layout | None = Layout()  # noqa: RUF009 - frozen
    role: Role | Literal["bias"] = "linear"
    stem: bool = False
    divided: tuple[int, ...] | None = None
    filters: int = 0

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
        scores: name -> floating scores in the stored shape, in order of definition; those of entries that
            were removed earlier count for nothing.
        capacity: name -> entries not removed earlier.
        sites: name -> what the tensor is.
        budget: entries to keep in all, at most the sum of the capacities.
        left: name -> boolean CPU tensor, True where an entry was not removed earlier; only for weights of
            which some were.
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
    left: Mapping[str, Tensor] = field(default_factory=dict)
    limits: dict[int, Tensor] = field(default_factory=dict)

    def sizes(self) -> dict[str, int]:
        """Name -> number of entries."""
        return {name: score.numel() for name, score in self.scores.items()}

    def take(self, name: str) -> Tensor:
        """The scores of a weight, minus infinity where entries were removed (written into them).

        They leave the ranking, so that their memory is free as soon as the caller drops them.
        """
        scores = self.scores.pop(name)
        if name in self.left:
            scores.masked_fill_(~self.left[name].to(scores.device), -torch.inf)
        return scores


def threshold(
    parts: Sequence[Tensor], count: int, left: Sequence[Tensor | None] = ()
) -> tuple[Tensor, list[int], list[int]]:
    """The count-th largest value among all entries, and where larger ones and those equal to it are.

    A random sample brackets the value; one pass counts what lies above the bracket and collects what lies
    strictly inside, which then is searched. The answer is exact whatever the sample was. Ties cost little:
    entries that equal an end of the bracket are only counted, in a pass of their own if that end is the
    value.

    Args:
        parts: at least one, without NaN, of any shapes.
        count: 1 ... number of entries.
        left: for every part the entries that count at all (boolean, on any device), or None for all.

    Returns:
        The value as a scalar tensor; for every part the number of larger entries; and of those equal to it.
        Linear time; memory: about 3 % of the entries where there are many, and chunks of :data:`CHUNK`.

    Raises:
        BadInput: there are fewer entries.
    """
    left = left or [None] * len(parts)
    dtype = reduce(torch.promote_types, {part.dtype for part in parts})
    small = sum(part.numel() for part in parts) <= 8 * _SAMPLE
    low, high = (-torch.inf, torch.inf) if small else _bracket(parts, left, count)
    while True:
        split = [_split(part, flags, low, high, dtype) for part, flags in zip(parts, left, strict=True)]
        reached, over = [part.reached for part in split], [part.over for part in split]
        if sum(reached) < count <= sum(over):
            limit = _largest(torch.cat([part.inside for part in split]), count - sum(reached))
            larger = [part.reached + tally(part.inside > limit) for part in split]
            return limit, larger, [tally(part.inside == limit) for part in split]
        end = high if count <= sum(reached) else low  # all ties, or the sample misled
        ends = [_split(part, flags, end, end, dtype) for part, flags in zip(parts, left, strict=True)]
        larger, equal = [part.over for part in ends], [part.reached - part.over for part in ends]
        if sum(larger) < count <= sum(larger) + sum(equal):
            return torch.tensor(end, dtype=dtype, device=parts[0].device), larger, equal
        if end == -torch.inf:
            raise BadInput(f"the {count} highest of {sum(larger) + sum(equal)} entries do not exist")
        low, high = (high, torch.inf) if count <= sum(larger) else (-torch.inf, low)


def _bracket(parts: Sequence[Tensor], left: Sequence[Tensor | None], count: int) -> tuple[float, float]:
    """Values that the threshold lies between, but for about one sample in 10^8.

    Among what is left: a round that removes little has its threshold near the lowest, where it is sharp.
    """
    total = sum(part.numel() for part in parts)
    draws = stream(0, "threshold", "sample")
    sample, available = [], 0
    for part, flags in zip(parts, left, strict=True):
        if part.numel():
            places = torch.randint(part.numel(), (1 + _SAMPLE * part.numel() // total,), generator=draws)
            values = part.take(places.to(part.device)).double().cpu()
            sample.append(values if flags is None else values[flags.cpu().take(places)])
            available += part.numel() if flags is None else tally(flags)
    ordered = np.sort(torch.cat(sample).numpy())[::-1]  # a twentieth of the time of torch's
    share = min(count / max(available, 1), 1.0)
    middle, margin = share * len(ordered), 6 * (len(ordered) * share * (1 - share)) ** 0.5 + 6
    first, last = int(middle - margin), int(middle + margin)
    high = float(ordered[first]) if first >= 0 else torch.inf
    return (float(ordered[last]) if last < len(ordered) else -torch.inf), high


@dataclass(frozen=True, eq=False)
class _Split:
    """How many entries are at least the upper end of a bracket, how many above the lower; those between."""

    reached: int
    over: int
    inside: Tensor


def _split(part: Tensor, left: Tensor | None, low: float, high: float, dtype: torch.dtype) -> _Split:
    reached = over = 0
    inside = [part.new_empty(0, dtype=dtype)]
    pieces = part.reshape(-1).split(CHUNK)
    flags = [None] * len(pieces) if left is None else left.reshape(-1).split(CHUNK)
    for piece, counts in zip(pieces, flags, strict=True):
        chunk = piece.to(dtype)
        at_least, more = chunk >= high, chunk > low
        if counts is not None:
            at_least &= counts.to(chunk.device)
            more &= counts.to(chunk.device)
        reached += tally(at_least)
        over += tally(more)
        inside.append(_chosen(chunk, more.bitwise_and_(at_least.bitwise_not_())))
    return _Split(reached, over, torch.cat(inside))


def _chosen(values: Tensor, flags: Tensor) -> Tensor:
    """``values[flags]``, of one axis; where few are chosen, numpy on the CPU takes a tenth of the time."""
    if values.is_cpu:
        return torch.from_numpy(values.numpy()[np.flatnonzero(flags.numpy())])
    return values[flags]


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
