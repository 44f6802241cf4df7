"""Initialisers: ``init(spec, *, ...) -> Tensor`` gives one block (out, in, *kernel) its float64 values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from sigprune.base.registry import Family

if TYPE_CHECKING:
    from torch import Tensor


class Init(Protocol):
    """A member: ``init(spec, *, options)`` returns a float64 CPU tensor of ``spec.shape``.

    All randomness comes from ``spec.generator``: a block's values depend on the seed and its name only.
    """

    PAPER: str
    init: Callable[..., Tensor]


inits: Family[Init] = Family(__name__, "init", "init")
