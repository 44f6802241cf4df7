"""The kept values in row-major order, and one bit per entry."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sigprune.families.codecs._shared import as_words, kept_values, part, raw, scatter
from sigprune.values.mask import pack_bits

SUFFIXES = "_sparse_bits"


def encode(tensor: Tensor, keep: Tensor) -> dict[str, Tensor]:
    """Pack one tensor.

    Main part: the values, kept * itemsize bytes; bits: ceil(n / 8) bytes, entry i is bit (i mod 8) of byte
    (i div 8). Cost: one pass; memory beyond the result: one boolean per entry.
    """
    return {"": raw(kept_values(tensor, keep)), "_sparse_bits": raw(pack_bits(keep))}


def decode(
    parts: dict[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype, kept: int
) -> tuple[Tensor, Tensor]:
    """The dense tensor and its mask.

    Raises:
        CheckpointError: parts of other lengths, another number of ones, stray bits after the last entry.
    """
    values = part(parts, "", kept * dtype.itemsize)
    bits = part(parts, "_sparse_bits", (math.prod(shape) + 7) // 8)
    return scatter(bits, as_words(values, dtype), shape, dtype)
