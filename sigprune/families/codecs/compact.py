"""Entropy-coded: positions and exponents by zstandard, signs and mantissas as they are; the smallest."""

from __future__ import annotations

import math

import numpy as np
import torch
import zstandard
from torch import Tensor

from sigprune.base.errors import CheckpointError
from sigprune.families.codecs._shared import (
    CHUNK,
    Bytes,
    Words,
    as_words,
    empty,
    kept_values,
    part,
    raw,
    scatter,
    words_of,
)
from sigprune.values.mask import pack_bits

SUFFIXES = "_sparse_exponents _sparse_positions"

_BITS, _GAPS = 0, 1
_ESCAPE = 255
_DENSE, _RARE = 0.15, 0.004
"""Densities from which bits, and below which a slower search, may give the smaller positions."""


def encode(tensor: Tensor, keep: Tensor) -> dict[str, Tensor]:
    """Pack one tensor.

    Values: words of the dtype's width, of floating dtypes rotated left by one bit, so that the highest byte
    holds exponent bits alone. Exponents: the highest bytes of all kept values, one zstandard frame. Main
    part: their other bytes, from the lowest, value by value. Positions: a byte that says how, and a frame: 0,
    the packed mask; 1, gaps: before each kept entry, and before the end, the number of removed ones since the
    last kept one, as a byte; 255 stands for 255 and goes on.

    Cost: a few passes; memory: one integer per kept entry, one boolean per entry.

    Source: literal-only zstandard frames code bytes within 1 to 2 % of their entropy (measured, see
    benchmarks/README.md).
    """
    width = tensor.dtype.itemsize
    values = kept_values(tensor, keep)
    if tensor.dtype.is_floating_point:
        values = _rotated(values, width, 1)
    bytes_ = values.reshape(-1, width)
    return {
        "": raw(bytes_[:, :-1]),
        "_sparse_exponents": raw(_frame(bytes_[:, -1])),
        "_sparse_positions": raw(_positions(keep)),
    }


def decode(
    parts: dict[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype, kept: int
) -> tuple[Tensor, Tensor]:
    """The dense tensor and its mask.

    Raises:
        CheckpointError: parts of other lengths, frames that are damaged or hold more than they should,
            positions beyond the last entry.
    """
    size, width = math.prod(shape), dtype.itemsize
    low = part(parts, "", kept * (width - 1)).reshape(kept, width - 1)
    high = _content(part(parts, "_sparse_exponents"), kept, kept)
    positions = part(parts, "_sparse_positions")
    if not len(positions) or positions[0] not in {_BITS, _GAPS}:
        raise CheckpointError("part '_sparse_positions': expected to start with 0 or 1; the file is damaged")
    if positions[0] == _BITS:
        bits = _content(positions[1:], (size + 7) // 8, (size + 7) // 8)
        return scatter(bits, _joined(low, high, dtype), shape, dtype)
    gaps = _content(positions[1:], kept + 1, kept + 1 + size // _ESCAPE)
    return _placed(gaps, low, high, shape, dtype)


def _positions(keep: Tensor) -> Bytes:
    flat = keep.cpu().contiguous().reshape(-1).numpy()
    places = np.flatnonzero(flat)
    gaps = np.diff(places, prepend=-1, append=len(flat)) - 1
    escapes = gaps // _ESCAPE
    text = np.full(len(gaps) + int(escapes.sum()), _ESCAPE, dtype=np.uint8)
    text[np.cumsum(escapes + 1) - 1] = gaps % _ESCAPE
    density = len(places) / max(len(flat), 1)
    found = [np.concatenate([np.array([_GAPS], np.uint8), _frame(text)])]
    if density >= _DENSE:
        found.append(np.concatenate([np.array([_BITS], np.uint8), _frame(pack_bits(keep))]))
    if density <= _RARE:
        found.append(np.concatenate([np.array([_GAPS], np.uint8), _frame(text, level=19)]))
    return min(found, key=len)


def _frame(content: Bytes, level: int | None = None) -> Bytes:
    """One zstandard frame that says how much it holds; without a level literals only, as nothing repeats."""
    if level is None:
        how = zstandard.ZstdCompressionParameters(
            strategy=zstandard.STRATEGY_FAST, window_log=17, chain_log=6, hash_log=6, search_log=1,
            min_match=7, target_length=0, write_content_size=1, write_checksum=0, write_dict_id=0,
        )  # fmt: skip
        packer = zstandard.ZstdCompressor(compression_params=how)
    else:
        packer = zstandard.ZstdCompressor(level=level)
    return np.frombuffer(bytearray(packer.compress(np.ascontiguousarray(content).data)), dtype=np.uint8)


def _content(frame: Bytes, least: int, most: int) -> Bytes:
    """What a frame holds; nothing is made before the frame says a plausible size.

    Raises:
        CheckpointError: it is damaged, or holds fewer or more bytes.
    """
    data = frame.tobytes()
    try:
        said = zstandard.get_frame_parameters(data)
        if not least <= said.content_size <= most or said.dict_id:
            raise CheckpointError(f"expected a frame of {least} to {most} bytes, it says {said.content_size}")
        # a window larger than the content would be memory that nothing asked for
        bound = max(most, 2**17).bit_length() + 1
        unpacker = zstandard.ZstdDecompressor(max_window_size=2 ** min(bound, 31))
        content = unpacker.decompress(data, max_output_size=said.content_size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CheckpointError(f"a damaged zstandard frame: {error}") from error
    if len(content) != said.content_size:
        raise CheckpointError(f"expected {said.content_size} bytes in a frame, got {len(content)}")
    return np.frombuffer(content, dtype=np.uint8)


def _placed(
    gaps: Bytes, low: Bytes, high: Bytes, shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Values after their gaps, chunk by chunk."""
    size, (dense, keep) = math.prod(shape), empty(shape, dtype)
    flat, kept = words_of(dense), keep.reshape(-1).numpy()
    done, place = 0, -1
    for start in range(0, len(gaps), CHUNK):
        text = gaps[start : start + CHUNK]
        ends = np.flatnonzero(text != _ESCAPE)
        # every byte moves on by its value, every end by the kept entry itself
        steps = np.cumsum(text, dtype=np.int64)
        places = place + steps[ends] + np.arange(1, len(ends) + 1)
        place += int(steps[-1]) + len(ends)
        if start + CHUNK >= len(gaps):  # the last one is the end
            if text[-1] == _ESCAPE or places[-1] != size:
                break
            places = places[:-1]
        stop = done + len(places)
        if stop > len(high) or (len(places) and places[-1] >= size):
            break
        flat[places] = _joined(low[done:stop], high[done:stop], dtype)
        kept[places] = True
        done = stop
    else:
        if done == len(high):
            return dense, keep
    raise CheckpointError(f"the gaps do not place {len(high)} of {size} entries; the file is damaged")


def _joined(low: Bytes, high: Bytes, dtype: torch.dtype) -> Words:
    """The words whose bytes are ``low`` and, highest, ``high``."""
    width = dtype.itemsize
    bytes_ = np.empty((len(high), width), dtype=np.uint8)
    bytes_[:, :-1], bytes_[:, -1] = low, high
    values = bytes_.reshape(-1)
    if dtype.is_floating_point:
        values = _rotated(values, width, 8 * width - 1)
    return as_words(values, dtype)


def _rotated(values: Bytes, width: int, count: int) -> Bytes:
    """Words rotated left by ``count`` bits."""
    words = values.view(np.dtype(f"u{width}"))
    turned: Words = words << words.dtype.type(count) | words >> words.dtype.type(8 * width - count)
    return turned.view(np.uint8)
