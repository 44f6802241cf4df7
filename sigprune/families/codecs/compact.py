"""Entropy-coded: positions and exponents by zstandard, signs and mantissas as they are; the smallest."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sigprune.families.codecs import _exponents, _positions
from sigprune.families.codecs._shared import Bytes, Words, as_words, empty, part, raw, scatter, words_of

SUFFIXES = "_sparse_exponents _sparse_positions"


def encode(tensor: Tensor, keep: Tensor) -> dict[str, Tensor]:
    """Pack one tensor.

    Positions: a byte that says how, and frames: 0, the packed mask; 1, gaps: before each kept entry, and
    before the end, the number of removed ones since the last kept one, as a byte; 255 stands for 255 and goes
    on; 2, a level of each row and column, then gaps in the order that the levels give. Values, in the order
    of the positions: words of the dtype's width, of floating dtypes rotated left by one bit, so that the
    highest byte holds exponent bits alone. Exponents: the highest bytes of all kept values, as digits in a
    table of the frequent ones. Main part: their other bytes, from the lowest, value by value.

    Cost: a few passes; memory: some integers per kept entry, one boolean per entry.
    """
    width = tensor.dtype.itemsize
    positions, places = _positions.encode(keep, width)
    values = words_of(tensor.cpu().contiguous())[places]
    if tensor.dtype.is_floating_point:
        values = _rotated(values, 1)
    bytes_ = values.view(np.uint8).reshape(-1, width)
    return {
        "": raw(bytes_[:, :-1]),
        "_sparse_exponents": raw(_exponents.encode(bytes_[:, -1])),
        "_sparse_positions": raw(positions),
    }


def decode(
    parts: dict[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype, kept: int
) -> tuple[Tensor, Tensor]:
    """The dense tensor and its mask.

    Raises:
        CheckpointError: parts of other lengths, frames that are damaged or hold more than they should,
            positions beyond the last entry.
    """
    size, width = math.prod(shape), dtype.itemsize
    low = part(parts, "", kept * (width - 1)).reshape(kept, width - 1)
    high = _exponents.decode(part(parts, "_sparse_exponents"), kept)
    positions = part(parts, "_sparse_positions")
    bits = _positions.bits(positions, size)
    if bits is not None:
        return scatter(bits, _joined(low, high, dtype), shape, dtype)
    dense, keep = empty(shape, dtype)
    flat, mask = words_of(dense), keep.reshape(-1).numpy()
    done = 0
    for places in _positions.decode(positions, shape, size, kept):
        stop = done + len(places)
        flat[places] = _joined(low[done:stop], high[done:stop], dtype)
        mask[places] = True
        done = stop
    return dense, keep


def _joined(low: Bytes, high: Bytes, dtype: torch.dtype) -> Words:
    """The words whose bytes are ``low`` and, highest, ``high``."""
    words = np.empty(len(high), dtype=np.dtype(f"u{dtype.itemsize}"))
    bytes_ = words.view(np.uint8).reshape(len(words), words.itemsize)
    for place, column in enumerate((*low.T, high)):  # each by itself: a third of the time
        bytes_[:, place] = column
    if dtype.is_floating_point:
        return _rotated(words, 8 * dtype.itemsize - 1)
    return as_words(words.view(np.uint8), dtype)


def _rotated(words: Words, count: int) -> Words:
    """Words rotated left by ``count`` bits."""
    kind = words.dtype.type
    turned: Words = words << kind(count)
    turned |= words >> kind(8 * words.itemsize - count)
    return turned
