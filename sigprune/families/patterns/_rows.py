"""The best of every row of a matrix."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sigprune.values.ranking import CHUNK


def best_in_rows(scores: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """The highest ``counts[i]`` scores of row i, as a boolean CPU tensor; ties in random order.

    Args:
        scores: (rows, columns).
        counts: (rows,) integers, at most the columns each.
        generator: breaks the ties.

    Linear time where few counts differ; memory: chunks of rows.
    """
    keep = torch.zeros(scores.shape, dtype=torch.bool)
    step = max(CHUNK // max(scores.shape[1], 1), 1)
    for start in range(0, len(scores), step):
        part = slice(start, start + step)
        keep[part] = _best(scores[part].cpu(), counts[part], generator)
    return keep


def _best(scores: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    last = scores.shape[1] - counts.clamp(min=1)  # where the lowest kept score is in ascending order
    ordered = np.partition(scores.numpy(), np.unique(last.numpy()), axis=1)
    limit = torch.from_numpy(ordered).gather(1, last[:, None])
    above, tied = scores > limit, scores == limit
    wanted = counts - above.sum(1)
    drawn = (tied.sum(1) > wanted).nonzero().squeeze(1)  # rows where some of the tied entries must go
    draws = torch.rand(len(drawn), scores.shape[1], generator=generator).masked_fill_(~tied[drawn], -1)
    place = draws.argsort(1, descending=True).argsort(1)
    keep = above | tied
    keep[drawn] = above[drawn] | (place < wanted[drawn, None])
    return keep
