"""Two kept of every four consecutive inputs (2:4): the values, and two bits for the place of each."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sigprune.base.bits import as_integers
from sigprune.base.errors import BadInput, CheckpointError
from sigprune.families.codecs._shared import Bytes, Words, as_words, empty, kept_values, part, raw, words_of

SUFFIXES = "_sparse_places"

_WHOLE = 255
"""Stands for the axis where every entry is kept."""


def encode(tensor: Tensor, keep: Tensor) -> dict[str, Tensor]:
    """Pack one tensor whose mask keeps two of each four along an axis, or everything.

    (The pattern n_m keeps everything of weights whose inputs are no multiple of four.)
    Places: one byte for the axis, then two bits for each kept entry, its place in its group, ascending, four
    to a byte from the lowest bits; groups in row-major order with the axis moved last. Main part: the values
    in that order, kept * itemsize bytes. Cost: one pass per axis; memory: one integer per entry.

    Raises:
        BadInput: the mask keeps another number of some group along every axis.
    """
    keep = keep.cpu()
    if bool(keep.all()):
        return {"": raw(kept_values(tensor, keep)), "_sparse_places": raw(np.array([_WHOLE], np.uint8))}
    for axis in range(keep.dim() - 1, -1, -1):
        if keep.shape[axis] % 4 == 0:
            ones = keep.movedim(axis, -1).contiguous().reshape(-1, 4)
            if bool((ones.sum(1) == 2).all()):
                values = as_integers(tensor.cpu()).movedim(axis, -1).contiguous().reshape(-1, 4)[ones]
                places = (np.flatnonzero(ones.numpy()) % 4).astype(np.uint8)
                packed = np.concatenate([np.array([axis], np.uint8), _packed(places)])
                return {"": raw(values.numpy()), "_sparse_places": raw(packed)}
    raise BadInput(
        "two_four packs masks that keep exactly two of each four consecutive entries along an axis, and this "
        "one does not; prune with the pattern n_m (n: 2, m: 4), or save with the codec bitmask or compact"
    )


def decode(
    parts: dict[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype, kept: int
) -> tuple[Tensor, Tensor]:
    """The dense tensor and its mask.

    Raises:
        CheckpointError: parts of other lengths, an axis that the shape does not have, places that do not
            ascend within a group.
    """
    size = math.prod(shape)
    values, places = as_words(part(parts, "", kept * dtype.itemsize), dtype), part(parts, "_sparse_places")
    if not len(places):
        raise CheckpointError("part '_sparse_places': expected at least one byte; the file is damaged")
    axis = int(places[0])
    if axis == _WHOLE:
        return _whole(values, len(places), shape, dtype)
    if axis >= len(shape) or shape[axis] % 4 or kept * 2 != size or len(places) != 1 + (kept + 3) // 4:
        raise CheckpointError(
            f"expected two of each four of {shape} along an axis, got axis {axis}, {kept} kept entries and "
            f"{len(places)} bytes of places; the file is damaged"
        )
    inside = _unpacked(places[1:], kept).reshape(-1, 2)
    if (kept % 4 and places[-1] >> 2 * (kept % 4)) or bool((inside[:, 0] >= inside[:, 1]).any()):
        raise CheckpointError(
            "places in a group must ascend, and no bits follow the last; the file is damaged"
        )
    where = (inside + np.arange(0, size, 4, dtype=np.int64)[:, None]).reshape(-1)
    moved = (*shape[:axis], *shape[axis + 1 :], shape[axis])
    dense, keep = empty(moved, dtype)
    words_of(dense)[where] = values
    keep.reshape(-1).numpy()[where] = True
    return dense.movedim(-1, axis).contiguous(), keep.movedim(-1, axis).contiguous()


def _whole(
    values: Words,
    length: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    if length != 1 or len(values) != math.prod(shape):
        raise CheckpointError(
            f"expected every entry of {shape} and one byte of places, got {len(values)} and {length}; the "
            "file is damaged"
        )
    dense, _ = empty(shape, dtype)
    words_of(dense)[:] = values
    return dense, torch.ones(shape, dtype=torch.bool)


def _packed(places: Bytes) -> Bytes:
    """Numbers below four, four to a byte from the lowest bits."""
    packed = np.zeros((len(places) + 3) // 4, dtype=np.uint8)
    for i in range(4):
        own = places[i::4]
        packed[: len(own)] |= own << np.uint8(2 * i)
    return packed


def _unpacked(packed: Bytes, count: int) -> Bytes:
    return np.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], axis=1).reshape(-1)[:count]
