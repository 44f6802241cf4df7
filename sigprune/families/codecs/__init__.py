"""Codecs: how a masked weight is stored in a packed file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from sigprune.base.family import Family

if TYPE_CHECKING:
    from torch import Tensor


class Codec(Protocol):
    """A member packs one tensor into parts, and unpacks them.

    ``encode(tensor, keep, *, options)`` gives parts by suffix; ``decode(parts, shape, dtype)`` gives the
    dense tensor and its mask, on the CPU. Parts are dense tensors; decoding needs no options.
    Lossless on the kept entries, bit for bit (-0.0, NaN payloads and kept zeros included); removed entries
    decode to +0.0. ``SUFFIXES`` lists the parts' suffixes, separated by blanks. Decoding refuses parts that
    do not fit the shape with :class:`~sigprune.base.errors.CheckpointError`.
    """

    SUFFIXES: str
    encode: Callable[..., dict[str, Tensor]]
    decode: Callable[..., tuple[Tensor, Tensor]]


codecs: Family[Codec] = Family(__name__, "codec", "encode")
