"""Tensors as integers of the same width: for copies and comparisons that see bits, not numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprune.base.errors import BadInput


def as_integers(tensor: Tensor) -> Tensor:
    """The same storage read as signed integers (uint8 where an entry is one byte).

    Works for every dtype of at most eight bytes, also where torch has no indexed write for it (float8,
    unsigned 16 to 64 bit), and keeps -0.0 and the payloads of NaN.

    Raises:
        BadInput: an entry is wider than eight bytes.

    Example:
        >>> as_integers(torch.tensor([0.0, -0.0])).tolist()
        [0, -2147483648]
    """
    width = tensor.element_size()
    if width > 8:
        raise BadInput(f"expected entries of at most 8 bytes, got {tensor.dtype}")
    return tensor.detach().view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[width])


def zeroed(values: Tensor, keep: Tensor) -> Tensor:
    """A copy with +0.0 where ``keep`` is False, and every bit of the others as it is (NaN too).

    Args:
        values: floating.
        keep: boolean, of the same shape, on any device.

    Example:
        >>> zeroed(torch.tensor([-1.0, torch.nan]), torch.tensor([False, False]))
        tensor([0., 0.])
    """
    # x & 0 = 0 and x & ~0 = x on the bits, which vectorises: a fifth of the time of masked_fill on the CPU
    bits = as_integers(values)
    return keep.to(bits.device, bits.dtype).neg_().bitwise_and_(bits).view(values.dtype)
