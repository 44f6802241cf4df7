"""Codecs: how a masked weight is stored in a packed file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from sigprune.base.registry import Family

if TYPE_CHECKING:
    from torch import Tensor


class Codec(Protocol):
    """A member packs one tensor into parts, and unpacks them.

    ``encode(tensor, keep, *, options)`` gives the parts: the main one under the key "", the others under the
    suffixes that ``SUFFIXES`` lists, separated by blanks. Every part is a vector of bytes (uint8) on the CPU;
    equal tensors give equal bytes. A mask that the codec cannot pack is refused with
    :class:`~sigprune.base.errors.BadInput`. ``decode(parts, shape, dtype, kept)`` gives the dense tensor and
    its mask, on the CPU; decoding needs no options.

    Lossless on the kept entries, bit for bit (-0.0, NaN payloads and kept zeros included); removed entries
    decode to +0.0. Parts may come from a file's mapped memory, where entries of the dtype may not lie:
    copy them before reading them as such. Decoding refuses parts that do not fit shape, dtype and ``kept``
    (which is between 0 and the number of entries) with
    :class:`~sigprune.base.errors.CheckpointError`, and never takes more memory than these justify.
    """

    SUFFIXES: str
    encode: Callable[..., dict[str, Tensor]]
    decode: Callable[..., tuple[Tensor, Tensor]]


codecs: Family[Codec] = Family(__name__, "codec", "encode")
