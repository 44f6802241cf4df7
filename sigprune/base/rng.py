"""The only source of randomness: (seed, purpose, name) -> an independent stream."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, purpose: str, name: str = "") -> int:
    """A 63-bit seed that depends on every argument and on nothing else.

    Example:
        >>> derive(0, "init", "fc.weight") == derive(0, "init", "fc.weight")
        True
        >>> derive(0, "init", "fc.weight") == derive(0, "prune", "fc.weight")
        False
    """
    text = f"{seed}\x1f{purpose}\x1f{name}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1


def generator(seed: int, purpose: str, name: str = "") -> torch.Generator:
    """A CPU generator for one purpose and one name.

    Draws are made on the CPU in a fixed dtype and then moved, so that every device sees the same numbers;
    a stream per name makes a draw independent of how many others were made before it.
    """
    return torch.Generator().manual_seed(derive(seed, purpose, name))


@contextmanager
def global_stream(seed: int, purpose: str, name: str = "") -> Iterator[None]:
    """Run code that draws from torch's global generators (library constructors, dropout) on a stream of ours.

    The state of the global generators is as before afterwards.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(seed, purpose, name))
        yield
