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

    It is made of segments: the entries of one row in the columns of one level. Cells are the segments of rows
    of one level and columns of one level.
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
        self._rows, self._columns = rows, columns
        by_row, first_row = _sorted(rows)
        self._across, first_column = _sorted(columns)
        heights, widths = first_row[1:] - first_row[:-1], first_column[1:] - first_column[:-1]
        row, column = np.divmod(np.arange(len(heights) * len(widths)), len(widths))
        cells = np.lexsort((row, row + column))
        # cells of levels that nothing has would make segments without entries, as many as a file likes
        cells = cells[(heights[row[cells]] > 0) & (widths[column[cells]] > 0)]
        self._row_level, self._column_level = row, column = row[cells], column[cells]
        height = heights[row]
        self._first_segment = first = np.concatenate([[0], height.cumsum()])
        down = np.arange(first[-1]) + (first_row[row] - first[:-1]).repeat(height)
        self._ends = widths[column].repeat(height).cumsum()
        self._starts = np.concatenate([[0], self._ends[:-1]])
        self._base = by_row[down] * len(columns)
        self._shift = first_column[column].repeat(height) - self._starts

    def bounds(self) -> Integers:
        """Where each sum of levels that occurs starts in this order, and the number of entries."""
        changes = np.flatnonzero(np.diff(self._row_level + self._column_level, prepend=-1))
        return np.append(self._starts[self._first_segment[changes]], self._ends[-1])

    def positions(self, places: Integers) -> Integers:
        """Row-major places -> positions in this order, in the order of the places."""
        rows, columns = np.divmod(places, len(self._columns))
        first = np.zeros((LEVELS, LEVELS), dtype=np.int64)
        first[self._row_level, self._column_level] = self._first_segment[:-1]
        segments = first[self._rows[rows], self._columns[columns]] + _ranks(self._rows)[rows]
        found: Integers = self._starts[segments] + _ranks(self._columns)[columns]
        return found

    def places(self, positions: Integers) -> Integers:
        """Ascending positions in this order -> row-major places, in the order of the positions."""
        if not len(positions):
            return positions
        first, last = np.searchsorted(self._ends, positions[[0, -1]], side="right")
        own = slice(first, last + 1)
        counts = np.diff(np.searchsorted(positions, self._ends[own]), prepend=0)
        across = positions + self._shift[own].repeat(counts)
        found: Integers = self._base[own].repeat(counts) + self._across[across]
        return found


def _sorted(found: Bytes) -> tuple[Integers, Integers]:
    """Indices by level, and the first of each level among them."""
    return np.argsort(found, kind="stable"), np.concatenate([[0], np.cumsum(np.bincount(found))])


def _ranks(found: Bytes) -> Integers:
    """The rank of each index within its level."""
    order, first = _sorted(found)
    ranks = np.empty(len(found), dtype=np.int64)
    ranks[order] = np.arange(len(found)) - first[found[order]]
    return ranks


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Rows and columns of a tensor: its first dimension, and the others; None if it has no two."""
    if len(shape) < 2 or not math.prod(shape):
        return None
    return shape[0], math.prod(shape[1:])
