"""The order of levels: entries of rows and columns that keep alike come together, so that gaps are alike.

Masks of supervised scores keep whole rows and columns more or less: were the odds of an entry the product of
one factor of its row and one of its column, entries of one sum of rounded logarithms would be kept alike.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sigprune.base.errors import CheckpointError
from sigprune.families.codecs._shared import Bytes, Integers

LEVELS = 32
"""Levels of rows, and of columns."""

_COLUMNS = 8
"""Columns that there must be for each of their levels, so that the order takes less than the tensor."""

_STEP = 0.7
"""Natural logarithm of the odds between two levels; 0.5 and 1.0 give files within 1 % of this (measured)."""


def levels(keep: NDArray[np.bool_]) -> tuple[Bytes, Bytes] | None:
    """The level of each row and of each column of a mask [rows, columns]; None for too few columns."""
    rows, columns = keep.shape
    down, across = (
        np.log((kept + 0.5) / (of - kept + 0.5)) for kept, of in ((keep.sum(1), columns), (keep.sum(0), rows))
    )
    most = min(columns // _COLUMNS, LEVELS) - 1
    if most < 1:
        return None
    step = max(_STEP, float(np.ptp(across)) / most)
    rounded = (np.round((each - each.min()) / step) for each in (down, across))
    row_levels, column_levels = (np.minimum(each, LEVELS - 1).astype(np.uint8) for each in rounded)
    return row_levels, column_levels


class Order:
    """Entries of a matrix by the sum of their row's and column's levels, then by the row's, then row-major.

    It is made of segments: the entries of one row in the columns of one level.

    Attributes:
        bounds: where each sum of levels starts in this order, and the number of entries.
    """

    def __init__(self, rows: Bytes, columns: Bytes) -> None:
        """Cost: some integers per row, column and segment, of which there is one for 8 entries at most.

        Raises:
            CheckpointError: a level beyond the highest, or too many levels of columns.
        """
        if max(rows.max(), columns.max()) >= LEVELS:
            raise CheckpointError(f"a level of {max(rows.max(), columns.max())}, expected less than {LEVELS}")
        if _COLUMNS * int(np.count_nonzero(np.bincount(columns))) > len(columns):
            raise CheckpointError(f"too many levels for {len(columns)} columns")
        self._columns = columns
        by_row, first_row, self._row_rank = _sorted(rows)
        self._across, first_column, self._column_rank = _sorted(columns)
        heights, widths = np.diff(first_row), np.diff(first_column)
        self._wide = len(widths)
        row, column = np.divmod(np.arange(len(heights) * len(widths)), self._wide)
        cells = np.lexsort((row, row + column))
        cells = cells[heights[row[cells]] * widths[column[cells]] > 0]
        row, column = row[cells], column[cells]
        height, first = heights[row], np.concatenate([[0], np.cumsum(heights[row])])
        down = np.arange(first[-1]) + np.repeat(first_row[row] - first[:-1], height)
        self._ends = np.cumsum(np.repeat(widths[column], height))
        self._starts = np.concatenate([[0], self._ends[:-1]])
        self._base = by_row[down] * len(columns)
        self._shift = np.repeat(first_column[column], height) - self._starts
        self._levels_of_rows = rows
        self._cell = np.zeros(len(heights) * len(widths), dtype=np.int64)
        self._cell[cells] = first[:-1]
        sums = row + column
        self.bounds = np.append(self._starts[first[np.searchsorted(sums, np.unique(sums))]], self._ends[-1])

    def positions(self, places: Integers) -> Integers:
        """Row-major places -> positions in this order, in the order of the places."""
        rows, columns = np.divmod(places, len(self._columns))
        cells = self._levels_of_rows[rows].astype(np.int64) * self._wide + self._columns[columns]
        found: Integers = self._starts[self._cell[cells] + self._row_rank[rows]] + self._column_rank[columns]
        return found

    def places(self, positions: Integers) -> Integers:
        """Ascending positions in this order -> row-major places, in the order of the positions."""
        if not len(positions):
            return positions
        first, last = np.searchsorted(self._ends, positions[[0, -1]], side="right")
        own = slice(first, last + 1)
        counts = np.diff(np.searchsorted(positions, self._ends[own]), prepend=0)
        across = positions + np.repeat(self._shift[own], counts)
        found: Integers = np.repeat(self._base[own], counts) + self._across[across]
        return found


def _sorted(found: Bytes) -> tuple[Integers, Integers, Integers]:
    """Indices by level, the first of each level among them, and the rank of each index within its level."""
    order = np.argsort(found, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(found))])
    rank = np.empty(len(found), dtype=np.int64)
    rank[order] = np.arange(len(found)) - first[found[order]]
    return order, first, rank


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Rows and columns of a tensor: its first dimension, and the others; None if it has no two."""
    if len(shape) < 2 or not math.prod(shape):
        return None
    return shape[0], math.prod(shape[1:])
