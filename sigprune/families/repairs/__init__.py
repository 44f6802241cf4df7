"""Repairs: ``restore(blocks, keep, *, ...) -> Tensor`` brings masked blocks near orthonormal rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from sigprune.base.registry import Family

if TYPE_CHECKING:
    from torch import Tensor


class Repair(Protocol):
    """A member: ``restore(blocks, keep, *, options)`` works on many blocks of one shape at once.

    ``blocks`` is (count, out, in, *kernel) with removed entries zero, ``keep`` the boolean pattern of that
    shape; the result has the same shape and dtype, removed entries zero, and no block's residual is larger
    than it was. The residual is ``|| B Bᵀ - I ||_F`` of the flattened kernel (out, in · taps); or that of the
    convolution, in a member with an option ``target: Literal["kernel", "operator"]`` that is ``"operator"``
    (``sigprune.values.orthogonality.residual`` measures both). No data is used.
    """

    PAPER: str
    restore: Callable[..., Tensor]


repairs: Family[Repair] = Family(__name__, "repair", "restore")
