"""Isometries: ``restore(blocks, keep, *, ...) -> Tensor`` brings masked blocks near orthonormal rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from sigprune.base.family import Family

if TYPE_CHECKING:
    from torch import Tensor


class Isometry(Protocol):
    """A member: ``restore(blocks, keep, *, options)`` works on many flattened blocks of one shape at once.

    ``blocks`` is (count, rows, columns) with removed entries zero, ``keep`` the boolean pattern of the same
    shape; the result has the same shape and dtype, removed entries zero, and no block's residual
    ``|| B Bᵀ - I ||_F`` is larger than it was. No data is used.
    """

    PAPER: str
    restore: Callable[..., Tensor]


isometries: Family[Isometry] = Family(__name__, "isometry", "restore")
