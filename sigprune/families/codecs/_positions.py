"""Positions of kept entries as bits, as gaps, or as gaps in the order of levels; zstandard does the rest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from sigprune.base.errors import CheckpointError
from sigprune.families.codecs._frames import contents, frame
from sigprune.families.codecs._levels import Order, as_matrix, levels
from sigprune.families.codecs._shared import CHUNK, Bytes, Integers, ones_of
from sigprune.values.mask import pack_bits

BITS, GAPS, LEVELS = 0, 1, 2
"""The first byte of the part: how it says where kept entries are."""

_ESCAPE = 255
_DENSE, _RARE = 0.15, 0.004
"""Densities from which bits, and below which a slower search, may give the smaller positions."""
_FEW = 512
"""Kept entries from which levels may pay, and that a frame of them holds at least."""
_WORTH = 1500, 0.03
"""Bytes that levels must save, and bytes for each kept entry, for the time that they take to decode."""
_MOST = 0.05
"""Kept entries for each byte of the dense tensor up to which levels decode about a GB of it a second."""


def encode(keep: Tensor, width: int) -> tuple[Bytes, Integers]:
    """The smallest way, levels if they are worth it; and row-major places of kept entries in its order.

    Args:
        keep: the mask.
        width: bytes of an entry.
    """
    mask = keep.cpu().contiguous()
    places = np.flatnonzero(mask.reshape(-1).numpy())
    density = len(places) / max(mask.numel(), 1)
    text, _ = _gaps(places, mask.numel())
    found = [(_part(GAPS, frame(text)), places)]
    if density >= _DENSE:
        found.append((_part(BITS, frame(pack_bits(keep))), places))
    if density <= _RARE:
        found.append((_part(GAPS, frame(text, level=19)), places))
    best = min(found, key=lambda each: len(each[0]))
    few_or_many = not _FEW <= len(places) <= _MOST * width * mask.numel()
    if few_or_many or as_matrix(tuple(keep.shape)) is None:
        return best
    found_levels = levels(mask.flatten(1).numpy())
    if found_levels is None:
        return best
    ordered = _by_levels(*found_levels, places)
    worth = _WORTH[0] + _WORTH[1] * len(places)
    return ordered if len(best[0]) - len(ordered[0]) >= worth else best


def bits(part: Bytes, size: int) -> Bytes | None:
    """The packed mask, if that is what the part holds.

    Raises:
        CheckpointError: the part is empty or of an unknown kind, or its frame is damaged.
    """
    if not len(part) or part[0] not in {BITS, GAPS, LEVELS}:
        raise CheckpointError("part '_sparse_positions': expected to start with 0 to 2; the file is damaged")
    return contents(part[1:], (size + 7) // 8, (size + 7) // 8) if part[0] == BITS else None


def decode(part: Bytes, shape: tuple[int, ...], size: int, kept: int) -> Iterator[Integers]:
    """Row-major places in the order of the part, chunk by chunk; of gaps and levels.

    Raises:
        CheckpointError: frames are damaged or hold more than they should, or gaps and kept entries do not add
            up to the number of entries.
    """
    longest, done = kept + 1 + size // _ESCAPE, 0
    if part[0] == GAPS:
        chunks = _from_gaps(contents(part[1:], kept + 1, longest), size)
    else:
        chunks = _from_levels(part, shape, longest)
    for places in chunks:
        done += len(places)
        if done > kept:
            break
        yield places
    if done != kept:
        raise CheckpointError(f"expected places of {kept} of {size} entries, got {done}; the file is damaged")


def _by_levels(rows: Bytes, columns: Bytes, places: Integers) -> tuple[Bytes, Integers]:
    """Levels, where bits begin, gaps before that and bits after it: densities ascend with sums of levels."""
    order, size = Order(rows, columns), len(rows) * len(columns)
    positions = order.positions(places)
    way = np.argsort(positions)
    positions = positions[way]
    bounds = order.bounds()
    firsts = np.searchsorted(positions, bounds)
    dense = np.diff(firsts) > _DENSE * np.diff(bounds)
    sparse = len(dense) - int(np.argmin(np.append(dense[::-1], False)))
    turn = int(bounds[sparse])
    text, ends = _gaps(positions[: firsts[sparse]], turn)
    bits = np.zeros(size - turn, dtype=np.uint8)
    bits[positions[firsts[sparse] :] - turn] = 1
    # a frame, so a table of codes, for the gaps that end in one sum of levels, and for the bits of one
    cuts = [ends[at - 1] for at in _apart(firsts[1:sparse], int(firsts[sparse]))]
    byte_cuts = _apart((bounds[sparse + 1 : -1] - turn) // 8, len(bits) // 8)
    head = np.frombuffer(turn.to_bytes(8, "little"), dtype=np.uint8)
    texts = [*np.split(text, cuts), *np.split(np.packbits(bits, bitorder="little"), byte_cuts)]
    frames = [frame(each) for each in (np.concatenate([rows, columns, head]), *texts) if len(each)]
    return _part(LEVELS, *frames), places[way]


def _apart(marks: Integers, end: int) -> list[int]:
    """Those of the ascending marks that are far enough from each other and from both ends."""
    found = [0]
    for mark in marks.tolist():
        if mark - found[-1] >= _FEW <= end - mark:
            found.append(mark)
    return found[1:]


def _from_levels(part: Bytes, shape: tuple[int, ...], longest: int) -> Iterator[Integers]:
    matrix = as_matrix(shape)
    if matrix is None:
        raise CheckpointError(f"levels of rows and columns in a tensor of shape {shape}; the file is damaged")
    rows, size, head = matrix[0], matrix[0] * matrix[1], sum(matrix)
    text = contents(part[1:], head + 9, head + 8 + longest + (size + 7) // 8)
    order, text = Order(text[:rows], text[rows:head]), text[head:]
    turn = int.from_bytes(text[:8].tobytes(), "little")
    middle = len(text) - (size - turn + 7) // 8
    if not 0 <= turn <= size or middle <= 8:
        raise CheckpointError(
            f"bits from entry {turn} of {size} on in {len(text)} bytes; the file is damaged"
        )
    for positions in _from_gaps(text[8:middle], turn):
        yield order.places(positions)
    for positions in _from_bits(text[middle:], size - turn):
        yield order.places(turn + positions)


def _part(kind: int, *frames: Bytes) -> Bytes:
    return np.concatenate([np.array([kind], np.uint8), *frames])


def _gaps(places: Integers, size: int) -> tuple[Bytes, Integers]:
    """Removed entries before each kept one and before the end, 255 and on, and where each gap's bytes end."""
    gaps = np.diff(places, prepend=-1, append=size) - 1
    escapes = gaps // _ESCAPE
    ends = np.cumsum(escapes + 1)
    text = np.full(ends[-1], _ESCAPE, dtype=np.uint8)
    text[ends - 1] = gaps % _ESCAPE
    return text, ends


def _from_gaps(gaps: Bytes, size: int) -> Iterator[Integers]:
    """Where gaps put kept entries, chunk by chunk."""
    place = -1
    for start in range(0, len(gaps), CHUNK):
        text = gaps[start : start + CHUNK]
        # every byte moves on by its value, every end by the kept entry itself
        steps = np.cumsum(text, dtype=np.int64)
        escapes, moved = text == _ESCAPE, int(steps[-1])
        places: Integers = steps[~escapes] if escapes.any() else steps
        places += np.arange(place + 1, place + 1 + len(places))
        place += moved + len(places)
        if start + CHUNK >= len(gaps):  # the last one is the end
            if text[-1] == _ESCAPE or places[-1] != size:
                break
            places = places[:-1]
        if len(places) and places[-1] >= size:
            break
        yield places
    else:
        return
    raise CheckpointError(f"gaps that do not end with the last of {size} entries; the file is damaged")


def _from_bits(packed: Bytes, size: int) -> Iterator[Integers]:
    """Where bits are ones, chunk by chunk."""
    if size % 8 and packed[-1] >> size % 8:
        raise CheckpointError(f"stray mask bits after the last of {size} entries; the file is damaged")
    for start in range(0, size, CHUNK):
        own = packed[start // 8 : (start + CHUNK) // 8]
        yield start + ones_of(np.unpackbits(own, bitorder="little"))
