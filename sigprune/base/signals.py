"""Signals that end the work (Ctrl-C, a closed terminal, the end of a batch job): when they have to wait."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class _Deferral:
    depth: int = 0
    came: int | None = None


_DEFERRAL = _Deferral()


@contextmanager
def deferred() -> Iterator[None]:
    """Signals wait until the block ends: it is done whole or not at all, and who reports knows which.

    For work of moments. It holds for handlers that ask :func:`waits`, as those of the command line do; other
    handlers, Python's own among them, strike at once.

    """
    # no signal can strike between this and the block: from here on they wait
    _DEFERRAL.depth += 1
    try:
        yield
    finally:
        _DEFERRAL.depth -= 1
        came, _DEFERRAL.came = _DEFERRAL.came, None
        if came is not None:
            signal.raise_signal(came)


def waits(number: int) -> bool:
    """Whether a handler has to return at once; the signal is then raised again when the block ends."""
    if not _DEFERRAL.depth:
        return False
    _DEFERRAL.came = _DEFERRAL.came or number
    return True
