"""Named tensors: ``Tensors = dict[str, Tensor]`` is the only container of a model's tensors."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def count(tensors: Mapping[str, Tensor]) -> int:
    """The number of entries of all tensors together.

    Example:
        >>> count({"a": torch.zeros(2, 3), "b": torch.zeros(4)})
        10
    """
    return sum(t.numel() for t in tensors.values())


def tally(flags: Tensor) -> int:
    """The number of True entries of a boolean tensor.

    Example:
        >>> tally(torch.tensor([True, False, True]))
        2
    """
    # on the CPU numpy counts in a fifth of the time that torch takes
    return int(np.count_nonzero(flags.numpy())) if flags.is_cpu else int(flags.count_nonzero())


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds a part of it (a DTensor, as ``fully_shard`` makes of parameters)."""
    kinds = sys.modules.get("torch.distributed.tensor")  # who has such a tensor has imported this
    return kinds is not None and isinstance(tensor, vars(kinds)["DTensor"])


def placed_like(flags: Tensor, tensor: Tensor) -> Tensor:
    """A plain tensor of the same shape on the device of another, in parts as that one is.

    Of a sharded tensor every process has to call it, with equal flags.
    """
    if not is_sharded(tensor):
        return flags.to(tensor.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    sharded = cast(DTensor, tensor)
    return distribute_tensor(flags, sharded.device_mesh, sharded.placements)


def number(total: Tensor) -> int:
    """A scalar tensor as an integer; a sharded one is summed over the processes, all of which call it."""
    if is_sharded(total):
        from torch.distributed.tensor import DTensor

        total = cast(DTensor, total).full_tensor()
    return int(total)


def flatten(tensors: Mapping[str, Tensor]) -> Tensor:
    """All entries in one vector, tensor after tensor in the mapping's order (one copy; must not be empty)."""
    return torch.cat([t.reshape(-1) for t in tensors.values()])


def raw_bytes(tensor: Tensor) -> bytes:
    """The entries of a tensor of any dtype as little-endian bytes, in row-major order (one copy)."""
    contiguous = tensor.detach().cpu().contiguous().reshape(-1)
    return contiguous.view(torch.uint8).numpy().tobytes()


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names: equal tensors, equal digest.

    Example:
        >>> a = {"x": torch.ones(2), "y": torch.zeros(1)}
        >>> digest(a) == digest(dict(reversed(a.items())))
        True
    """
    sha = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name]
        sha.update(f"{name}|{t.dtype}|{tuple(t.shape)}|".encode())
        sha.update(raw_bytes(t))
    return sha.hexdigest()
