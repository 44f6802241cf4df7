"""Masks that the codec ``compact`` writes by levels of rows and columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from sigprune.base.rng import generator
from sigprune.families.codecs import _positions


def by_rows_and_columns(shape: tuple[int, ...]) -> Tensor:
    """A mask whose odds are the product of one factor of the row and one of the column."""
    stream = generator(4, "mask")
    rows, columns = shape[0], math.prod(shape[1:])
    odds = torch.randn(rows, 1, generator=stream) + torch.randn(1, columns, generator=stream)
    return (torch.rand(rows, columns, generator=stream) < torch.sigmoid(3 * odds - 2)).reshape(shape)


@contextmanager
def levels_at_any_price() -> Iterator[None]:
    """Levels are written wherever a tensor has them, in frames of any size, however little they save."""
    with patch.multiple(_positions, _WORTH=(-math.inf, 0), _FEW=1, _MOST=math.inf):
        yield
