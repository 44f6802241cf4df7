"""What codecs share: bits, values and positions, in chunks that stay in the processor's cache."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigprune.base.bits import as_integers
from sigprune.base.errors import CheckpointError

Bytes: TypeAlias = NDArray[np.uint8]
Integers: TypeAlias = NDArray[np.int64]
Words: TypeAlias = NDArray[np.unsignedinteger[Any]]

CHUNK = 2**18
"""Entries that are decoded together."""


def part(parts: Mapping[str, Tensor], suffix: str, length: int | None = None) -> Bytes:
    """The bytes of a part.

    Raises:
        CheckpointError: it is no vector of bytes, or not of this length.
    """
    tensor = parts[suffix]
    if tensor.dtype is not torch.uint8 or tensor.dim() != 1 or (length is not None and len(tensor) != length):
        wanted = "a vector of" if length is None else str(length)
        raise CheckpointError(
            f"part {suffix!r}: expected {wanted} bytes, got shape {tuple(tensor.shape)} of {tensor.dtype}; "
            "the file is damaged"
        )
    found: Bytes = tensor.numpy()
    return found


def raw(array: NDArray[np.generic]) -> Tensor:
    """An array as a part."""
    return torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def kept_values(tensor: Tensor, keep: Tensor) -> Bytes:
    """The kept entries in row-major order, as bytes."""
    values: Bytes = as_integers(tensor.cpu())[keep.cpu()].reshape(-1).view(torch.uint8).numpy()
    return values


def as_words(values: Bytes, dtype: torch.dtype) -> Words:
    """Bytes as integers of the dtype's width, in memory of their own where bytes are not aligned.

    Raises:
        CheckpointError: truth values other than 0 and 1.
    """
    kind = np.dtype(f"u{dtype.itemsize}")
    if dtype is torch.bool and len(values) and values.max() > 1:
        raise CheckpointError("a truth value that is neither 0 nor 1; the file is damaged")
    aligned = values.ctypes.data % kind.itemsize == 0
    return (values if aligned else values.copy()).view(kind)


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A dense tensor of +0.0 and a mask of nothing.

    Raises:
        CheckpointError: no memory holds them.
    """
    try:
        return torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=torch.bool)
    except RuntimeError as error:
        raise CheckpointError(
            f"no memory for a tensor of the shape {shape} that the file declares"
        ) from error


def words_of(dense: Tensor) -> Words:
    """A fresh dense tensor's memory as unsigned integers of its width."""
    flat = as_integers(dense).reshape(-1).numpy()
    return flat.view(np.dtype(f"u{flat.itemsize}"))


def ones_of(bits: Bytes) -> Integers:
    """Where unpacked bits are ones.

    numpy searches for ones one by one where a tenth or less are, which takes up to 2.5 times as long as its
    other way; with ones at the end more are (numpy 2.4, measured; sparser bits are better searched).
    """
    count = int(np.count_nonzero(bits))
    if not len(bits) < 30 * count <= 3 * len(bits):
        return np.flatnonzero(bits.view(np.bool_))
    padded = np.ones(len(bits) + len(bits) // 8, dtype=np.bool_)
    padded[: len(bits)] = bits
    return np.flatnonzero(padded)[:count]


def scatter(
    bits: Bytes,
    values: Words,
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Values where the packed mask has ones, row-major.

    Raises:
        CheckpointError: the mask has another number of ones, or ones after the last entry.
    """
    size = math.prod(shape)
    if size % 8 and bits[-1] >> size % 8:
        raise CheckpointError(f"stray mask bits after the last of {size} entries; the file is damaged")
    dense, keep = empty(shape, dtype)
    flat, kept = words_of(dense), keep.reshape(-1).view(torch.uint8).numpy()
    done = 0
    for start in range(0, size, CHUNK):
        stop = min(start + CHUNK, size)
        ones = np.unpackbits(bits[start // 8 : (stop + 7) // 8], count=stop - start, bitorder="little")
        kept[start:stop] = ones
        places = ones_of(ones)
        if done + len(places) > len(values):
            break
        flat[start:stop][places] = values[done : done + len(places)]
        done += len(places)
    else:
        if done == len(values):
            return dense, keep
    raise CheckpointError(f"the mask does not keep {len(values)} entries, as it should; the file is damaged")
