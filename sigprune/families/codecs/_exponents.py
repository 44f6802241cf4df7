"""Bytes of few kinds, several to a byte: whole bits for each of them alone would waste up to a third."""

from __future__ import annotations

import numpy as np

from sigprune.base.errors import CheckpointError
from sigprune.families.codecs._frames import contents, frame
from sigprune.families.codecs._shared import Bytes, Integers, ones_of

_TABLES = (15, 5, 0)
"""How many frequent values are tried: two digits to a byte, three, and bytes as they are."""
_MOST = max(_TABLES)
"""Values of a table: with one symbol more, for all others, two digits fill a byte."""


def encode(values: Bytes) -> Bytes:
    """The smallest of a few tables: its size, its values, digits of ``values`` in it, and those not in it."""
    counts = np.bincount(values, minlength=256)
    common = np.argsort(-counts, kind="stable")[: int(np.count_nonzero(counts))].astype(np.uint8)
    texts = {size: _text(values, common[:size]) for size in {min(size, len(common)) for size in _TABLES}}
    found = (np.concatenate([frame(each) for each in parts if len(each)]) for parts in texts.values())
    return min(found, key=len)


def decode(part: Bytes, kept: int) -> Bytes:
    """The values.

    Raises:
        CheckpointError: damaged frames, a table that is too large, digits or values too few or too many.
    """
    content = contents(part, 1, 1 + _MOST + 2 * kept)
    size = int(content[0])
    digits = _digits(size)
    length = -(-kept // digits)
    table, packed, others = content[1 : 1 + size], content[1 + size :][:length], content[1 + size + length :]
    if size > _MOST or len(set(table.tolist())) < size or len(packed) < length:
        raise CheckpointError(f"a table of {size} values, {len(content)} bytes in all; the file is damaged")
    if not size:
        return _with_rare(packed, np.empty(0, np.int64), others)
    places = np.arange((size + 1) ** digits)[:, None] // (size + 1) ** np.arange(digits) % (size + 1)
    if length and packed.max() >= len(places):
        raise CheckpointError(f"digits beyond a table of {size} values; the file is damaged")
    # a value that the table lacks marks places of rare ones: comparing is faster than a second lookup
    other = np.uint8(min(set(range(_MOST + 1)) - set(table.tolist())))
    found = np.append(table, other)[places].take(packed, axis=0).reshape(-1)[:kept]
    return _with_rare(found, ones_of((found == other).view(np.uint8)), others)


def _with_rare(found: Bytes, rare: Integers, others: Bytes) -> Bytes:
    if len(rare) != len(others):
        raise CheckpointError(f"{len(others)} values beside the table, not {len(rare)}; the file is damaged")
    if len(rare):
        found[rare] = others
    return found


def _text(values: Bytes, table: Bytes) -> list[Bytes]:
    size = len(table)
    head = np.append(np.array([size], dtype=np.uint8), table)
    if not size:
        return [np.concatenate([head, values])]
    digits, symbols = _digits(size), np.full(256, size, dtype=np.uint8)
    symbols[table] = np.arange(size)
    found = symbols[values]
    rare = values[found == size]
    padded = np.append(found, np.zeros(-len(found) % digits, dtype=np.uint8)).reshape(-1, digits)
    packed = (padded * (size + 1) ** np.arange(digits)).sum(1).astype(np.uint8)
    return [head, packed, rare]


def _digits(size: int) -> int:
    """Digits to a byte: as many as fit, with one symbol for values outside the table."""
    count = 1
    while size and (size + 1) ** (count + 1) <= 256:
        count += 1
    return count
