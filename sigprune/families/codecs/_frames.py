"""Zstandard frames of bytes in which nothing repeats, and their contents within bounds known before."""

from __future__ import annotations

import numpy as np
import zstandard

from sigprune.base.errors import CheckpointError, TooLarge
from sigprune.families.codecs._shared import Bytes

MAX_FRAMES = 1024
"""Frames of a part; sigprune writes up to 130. Each takes its time, whatever it holds."""


def frame(content: Bytes, level: int | None = None) -> Bytes:
    """One frame that says how much it holds; without a level literals only, as nothing repeats.

    Source: literal-only frames code bytes within 1 to 2 % of their entropy (measured, benchmarks/README.md).
    """
    if level is None:
        how = zstandard.ZstdCompressionParameters(
            strategy=zstandard.STRATEGY_FAST, window_log=17, chain_log=6, hash_log=6, search_log=1,
            min_match=7, target_length=0, write_content_size=1, write_checksum=0, write_dict_id=0,
        )  # fmt: skip
        packer = zstandard.ZstdCompressor(compression_params=how)
    else:
        packer = zstandard.ZstdCompressor(level=level)
    return np.frombuffer(bytearray(packer.compress(np.ascontiguousarray(content).data)), dtype=np.uint8)


def contents(frames: Bytes, least: int, most: int) -> Bytes:
    """What frames hold, one after another; nothing is made before they say plausible sizes.

    Raises:
        TooLarge: there are too many.
        CheckpointError: one is damaged or does not say its size, they hold fewer or more bytes, or something
            follows them.
    """
    data = np.ascontiguousarray(frames).data
    found: list[bytes] = []
    left = most
    try:
        # a window larger than the content would be memory that nothing asked for
        window = 2 ** min(max(most, 2**17).bit_length() + 1, 31)
        unpacker = zstandard.ZstdDecompressor(max_window_size=window)
        while data or not found:
            header = zstandard.get_frame_parameters(data)
            if header.content_size > left or header.dict_id:
                raise CheckpointError(
                    f"expected frames of {least} to {most} bytes, one of them says {header.content_size}"
                )
            if len(found) == MAX_FRAMES:
                raise TooLarge(f"expected at most {MAX_FRAMES:,} zstandard frames, got more")
            size = _size(data, header.has_checksum)
            one = unpacker.decompress(
                data[:size], max_output_size=header.content_size, allow_extra_data=False
            )
            if len(one) != header.content_size:
                raise CheckpointError(f"expected {header.content_size} bytes in a frame, got {len(one)}")
            found.append(one)
            left, data = left - len(one), data[size:]
    except zstandard.ZstdError as error:
        raise CheckpointError(f"a damaged zstandard frame: {error}") from error
    if most - left < least:
        raise CheckpointError(f"expected frames of {least} to {most} bytes, they hold {most - left}")
    return np.frombuffer(found[0] if len(found) == 1 else b"".join(found), dtype=np.uint8)


def _size(data: memoryview, has_checksum: bool) -> int:
    """Bytes of the first frame. Source: RFC 8878, section 3.1.1: headers of blocks say how long they are."""
    place, last = zstandard.frame_header_size(data), False
    while not last:
        head = int.from_bytes(data[place : place + 3], "little")
        if place + 3 > len(data):
            raise CheckpointError("a zstandard frame that ends early; the file is damaged")
        last, repeated = bool(head & 1), head >> 1 & 3 == 1
        place += 3 + (1 if repeated else head >> 3)
    return place + 4 * has_checksum
