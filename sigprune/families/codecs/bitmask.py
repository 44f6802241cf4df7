"""The kept values in row-major order, and one bit per entry."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sigprune.base.errors import CheckpointError
from sigprune.values.bits import as_integers
from sigprune.values.mask import pack_bits

SUFFIXES = "_sparse_bits"


def encode(tensor: Tensor, keep: Tensor) -> dict[str, Tensor]:
    """Pack one tensor.

    Values (kept,) in the tensor's dtype, row-major; bits uint8 (ceil(n / 8),), entry i is bit (i mod 8) of
    byte (i div 8). Cost: one pass; memory beyond the result: one boolean per entry.
    """
    values = as_integers(tensor.cpu())[keep.cpu()].view(torch.uint8)
    return {"": values, "_sparse_bits": torch.from_numpy(pack_bits(keep))}


def decode(
    parts: dict[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype, kept: int
) -> tuple[Tensor, Tensor]:
    """The dense tensor and its mask, on the CPU.

    Nothing of the size of ``shape`` is allocated before the parts are known to fit it.

    Raises:
        CheckpointError: wrong number of bytes or values, stray bits after the last entry, another dtype.
    """
    values, bits = parts[""], parts["_sparse_bits"]
    keep = _unpack(bits, shape)
    # a copy: bytes in a file need not lie where entries of the dtype may
    values = values.clone().view(dtype)
    if values.dtype is not dtype or values.dim() != 1 or values.numel() != kept or int(keep.sum()) != kept:
        raise CheckpointError(
            f"expected {kept} values of {dtype}, "
            f"got shape {tuple(values.shape)} of {values.dtype}; the file is damaged"
        )
    dense = torch.zeros(shape, dtype=dtype)
    as_integers(dense)[keep] = as_integers(values)
    return dense, keep


def _unpack(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    size = math.prod(shape)
    if bits.dtype is not torch.uint8 or bits.shape != ((size + 7) // 8,):
        raise CheckpointError(
            f"expected {(size + 7) // 8} mask bytes for shape {shape}, "
            f"got shape {tuple(bits.shape)} of {bits.dtype}; the file is damaged"
        )
    unpacked = torch.from_numpy(np.unpackbits(bits.numpy(), bitorder="little")).view(torch.bool)
    if bool(unpacked[size:].any()):
        raise CheckpointError(f"stray mask bits after the last of {size} entries; the file is damaged")
    return unpacked[:size].reshape(shape)
