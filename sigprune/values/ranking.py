"""Rankings: scores with a number of entries to keep, what an allocation is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sigprune.base.tensors import Tensors
from sigprune.values.layout import Shape


@dataclass(frozen=True, eq=False)
class Ranking:
    """Scores of all prunable weights and the number of entries to keep among them.

    Attributes:
        scores: name -> floating scores, minus infinity where an entry was removed earlier.
        capacity: name -> entries not removed earlier.
        blocks: name -> shape (out, in, *kernel) of one block; (n,) for a bias.
        budget: entries to keep in all, at most the sum of the capacities.
        generator: breaks ties, so that position never does.
    """

    scores: Tensors
    capacity: Mapping[str, int]
    blocks: Mapping[str, Shape]
    budget: int
    generator: torch.Generator

    def sizes(self) -> dict[str, int]:
        """Name -> number of entries."""
        return {name: score.numel() for name, score in self.scores.items()}


def threshold(values: Tensor, count: int) -> tuple[Tensor, int]:
    """The count-th largest value of a vector, and how many of the entries equal to it belong to the top.

    Args:
        values: one dimension, without NaN.
        count: 1 ... len(values).

    Returns:
        The value as a scalar tensor, and ``count`` minus the number of larger entries. Linear time.
    """
    rank = len(values) - count
    if values.is_cpu:  # numpy's vectorised selection: a fifth of the time of torch's
        limit = torch.from_numpy(np.partition(values.numpy(), rank))[rank]
    else:
        limit = values.kthvalue(rank + 1).values
    return limit, count - int((values > limit).count_nonzero())


def pick(count: int, total: int, generator: torch.Generator) -> Tensor:
    """``count`` different indices out of ``total``, every subset equally likely, on the CPU."""
    return torch.randperm(total, generator=generator)[:count]
