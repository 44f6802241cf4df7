"""The exact k-th largest of more numbers than fit in memory, from histograms of their bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sigprune.base.errors import BadScores
from sigprune.base.rng import generator
from sigprune.values.ranking import CHUNK, pick

_DIGIT = 16


@dataclass(frozen=True)
class Threshold:
    """Which entries are the k largest of all.

    Attributes:
        key: bits of the k-th largest number, and what is larger is kept; None: nothing is.
        ties: name -> how many of the entries that equal it are kept; None: all of them.
        seed: of the choice among them.
    """

    key: int | None
    ties: Mapping[str, int] | None
    seed: int

    def keep(self, name: str, scores: Tensor) -> Tensor:
        """The kept entries of one tensor; memory: one boolean, and while it works one integer, per entry."""
        keys = bits_of(name, scores)
        if self.key is None:
            return torch.zeros(keys.shape, dtype=torch.bool)
        if self.ties is None:
            return keys >= self.key
        keep = keys > self.key
        if self.ties.get(name, 0):
            places = (keys == self.key).reshape(-1).nonzero().reshape(-1)
            chosen = pick(self.ties[name], len(places), generator(self.seed, "ties by shard", name))
            keep.view(-1)[places[chosen]] = True
        return keep


def bits_of(name: str, scores: Tensor) -> Tensor:
    """Non-negative numbers as integers in the same order: their IEEE 754 bits (float32, or float64).

    Raises:
        BadScores: one is NaN, infinite or negative.
    """
    width = torch.int64 if scores.dtype is torch.float64 else torch.int32
    keys = scores.detach().cpu().contiguous().view(width)
    infinite = int(torch.tensor(torch.inf, dtype=scores.dtype).view(width))
    if keys.numel() and not (int(keys.min()) >= 0 and int(keys.max()) < infinite):
        odd = int(((keys >= infinite) | (keys < 0)).count_nonzero())
        raise BadScores(f"{name}: {odd} of {keys.numel()} scores are NaN, infinite or negative")
    return keys


def kth_largest(
    passes: Callable[[], Iterable[tuple[str, Tensor]]], count: int, dtype: torch.dtype, *, seed: int
) -> Threshold:
    """The threshold that keeps exactly ``count`` entries, in memory that does not depend on their number.

    Each pass counts the next sixteen bits of those numbers whose higher bits are decided: two passes for
    float32, four for float64, and one more if only some of several equal entries are kept. Those are shared
    among the tensors in proportion, what is left over in a seeded order, so that position decides nothing.

    Args:
        passes: gives name and non-negative scores of all tensors, the same at every call.
        count: entries to keep, from 0 to their number.
        dtype: of the scores, float32 or float64.
        seed: of the choice among equal entries.
    """
    if count == 0:
        return Threshold(None, None, seed)
    prefix, left = 0, count
    for shift in range(8 * dtype.itemsize - _DIGIT, -1, -_DIGIT):
        counted = np.zeros(1 << _DIGIT, dtype=np.int64)
        for name, scores in passes():
            counted += _counted(name, scores, prefix, shift)
        above = counted[::-1].cumsum()
        place = int(np.searchsorted(above, left))
        digit = len(counted) - 1 - place
        left -= int(above[place] - counted[digit])
        prefix = prefix << _DIGIT | digit
        equal = int(counted[digit])
    if left == equal:
        return Threshold(prefix, None, seed)
    ties = {name: int((bits_of(name, scores) == prefix).count_nonzero()) for name, scores in passes()}
    return Threshold(prefix, _shared(ties, left, seed), seed)


def _counted(
    name: str, scores: Tensor, prefix: int, shift: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """How often each value of the next digit occurs among numbers that start with the prefix."""
    counted = np.zeros(1 << _DIGIT, dtype=np.int64)
    for chunk in scores.reshape(-1).split(CHUNK):
        keys = bits_of(name, chunk).numpy()
        own = keys[keys >> (shift + _DIGIT) == prefix] if shift + _DIGIT < 8 * keys.itemsize else keys
        counted += np.bincount((own >> shift) & ((1 << _DIGIT) - 1), minlength=1 << _DIGIT)
    return counted


def _shared(sizes: Mapping[str, int], count: int, seed: int) -> dict[str, int]:
    """``count`` split in proportion to the sizes; a seeded order says who gets what is left over."""
    total = sum(sizes.values())
    shares = {name: count * size // total for name, size in sizes.items()}
    open_ = [name for name, size in sizes.items() if shares[name] < size]
    for place in pick(count - sum(shares.values()), len(open_), generator(seed, "ties by shard")).tolist():
        shares[open_[place]] += 1
    return shares
