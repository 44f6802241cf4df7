"""A reader of packed files written from docs/format.md alone: struct, json, numpy and zstandard."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path

import numpy as np
import zstandard

from tests.reference.canonical import canonical, without_digest

WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "int64": 8, "float8_e4m3fn": 1}
KINDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64", "I64": "int64"}


def read(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Name -> words of the dense tensor (unsigned integers, row-major, flat) and its mask."""
    single = folder / "model.sparse.safetensors"
    if single.exists():
        return read_file(single)
    index = json.loads((folder / "model.safetensors.index.sparse.json").read_text())
    own = json.loads(index["metadata"]["sigprune"])
    found: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    for name, digest in own["shards"].items():
        text = metadata_of((folder / name).read_bytes())[0]["__metadata__"]["sigprune"]
        assert hashlib.sha256(text.encode()).hexdigest() == digest
        found |= read_file(folder / name)
    assert set(index["weight_map"].values()) == set(own["shards"])
    return found


def metadata_of(content: bytes) -> tuple[dict, bytes]:
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def read_file(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    header, data = metadata_of(path.read_bytes())
    text, digest = without_digest(header["__metadata__"]["sigprune"])
    assert hashlib.sha256(text.encode()).hexdigest() == digest
    manifest = json.loads(header.pop("__metadata__")["sigprune"])
    bits: dict[str, list] = {}
    found: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    for name, entry in manifest["tensors"].items():
        kind = f"u{WIDTHS[entry['dtype']]}"
        if "parts" not in entry:
            about = header.pop(name)
            assert (KINDS[about["dtype"]], about["shape"]) == (entry["dtype"], entry["shape"])
            dense, mask = np.frombuffer(slice_of(data, about), kind), None
        else:
            parts = {}
            for suffix, expected in entry["parts"].items():
                about = header.pop(name + suffix)
                parts[suffix] = slice_of(data, about)
                assert about["dtype"] == "U8"
                lead = [1] * len(entry["shape"]) if suffix == "" else []
                assert about["shape"] == [*lead, len(parts[suffix])]
                assert hashlib.sha256(parts[suffix]).hexdigest() == expected
            dense, mask = DECODE[entry["codec"]](parts, entry, kind)
            packed = np.packbits(mask, bitorder="little").tobytes()
            assert hashlib.sha256(packed).hexdigest() == entry["bits"]
            bits[name] = [entry["shape"], entry["bits"]]
            assert int(mask.sum()) == entry["kept"]
        assert hashlib.sha256(dense.tobytes()).hexdigest() == entry["digest"]
        found[name] = (dense, mask)
    assert not header
    assert hashlib.sha256(canonical(bits).encode()).hexdigest() == manifest["mask"]
    return found


def slice_of(data: bytes, about: dict) -> bytes:
    start, stop = about["data_offsets"]
    return data[start:stop]


def unpacked(bits: bytes, size: int) -> np.ndarray:
    return np.array([bits[i // 8] >> i % 8 & 1 for i in range(size)], dtype=bool)


def bitmask(parts: dict[str, bytes], entry: dict, kind: str) -> tuple[np.ndarray, np.ndarray]:
    mask = unpacked(parts["_sparse_bits"], math.prod(entry["shape"]))
    dense = np.zeros(mask.size, kind)
    dense[mask] = np.frombuffer(parts[""], kind)
    return dense, mask


def two_four(parts: dict[str, bytes], entry: dict, kind: str) -> tuple[np.ndarray, np.ndarray]:
    values, (axis, *places) = np.frombuffer(parts[""], kind), parts["_sparse_places"]
    shape = entry["shape"]
    if axis == 255:
        return values.copy(), np.ones(values.size, bool)
    moved = np.zeros([*shape[:axis], *shape[axis + 1 :], shape[axis]], kind).reshape(-1)
    kept = np.zeros(moved.size, bool)
    for number, value in enumerate(values):
        place = places[number // 4] >> 2 * (number % 4) & 3
        moved[number // 2 * 4 + place] = value
        kept[number // 2 * 4 + place] = True
    order = [*shape[:axis], *shape[axis + 1 :], shape[axis]]
    return tuple(np.moveaxis(a.reshape(order), -1, axis).reshape(-1) for a in (moved, kept))


def joined(frames: bytes) -> bytes:
    content = b""
    while frames:
        one = zstandard.ZstdDecompressor().decompressobj()
        content, frames = content + one.decompress(frames), one.unused_data
    return content


def exponents(content: bytes, kept: int) -> list[int]:
    size, table, content = content[0], content[1 : 1 + content[0]], content[1 + content[0] :]
    if size == 0:
        return list(content)
    digits = max(d for d in range(1, 9) if (size + 1) ** d <= 256)
    symbols = [byte // (size + 1) ** i % (size + 1) for byte in content for i in range(digits)]
    length = -(-kept // digits)
    others = iter(content[length:])
    found = [table[s] if s < size else next(others) for s in symbols[: length * digits][:kept]]
    assert next(others, None) is None
    return found


def compact(parts: dict[str, bytes], entry: dict, kind: str) -> tuple[np.ndarray, np.ndarray]:
    width, kept, size = int(kind[1:]), entry["kept"], math.prod(entry["shape"])
    high = exponents(joined(parts["_sparse_exponents"]), kept)
    words = []
    for i in range(kept):
        low = parts[""][i * (width - 1) : (i + 1) * (width - 1)]
        word = int.from_bytes(low + bytes([high[i]]), "little")
        if "float" in entry["dtype"]:
            word = word >> 1 | (word & 1) << 8 * width - 1
        words.append(word)
    how, content = parts["_sparse_positions"][0], joined(parts["_sparse_positions"][1:])
    order, turn = range(size), size
    if how == 2:
        rows, columns = entry["shape"][0], size // entry["shape"][0]
        down, across = content[:rows], content[rows : rows + columns]
        turn = int.from_bytes(content[rows + columns : rows + columns + 8], "little")
        content = content[rows + columns + 8 :]
        assert max(down + across) < 32
        assert 8 * len(set(across)) <= columns
        levels = [(down[i // columns], across[i % columns]) for i in range(size)]
        order = sorted(range(size), key=lambda i: (sum(levels[i]), levels[i][0], i))
    places, place, bits = [], 0, b""
    if how == 0:
        turn, bits = 0, content
    else:
        end = len(content) - (size - turn + 7) // 8
        content, bits = content[:end], content[end:]
        for byte in content:
            place += byte
            if byte < 255:
                places.append(place)
                place += 1
        assert places.pop() == turn
    places += (turn + np.flatnonzero(unpacked(bits, size - turn))).tolist()
    assert len(places) == kept
    dense, mask = np.zeros(size, kind), np.zeros(size, bool)
    for place, word in zip(places, words, strict=True):
        dense[order[place]], mask[order[place]] = word, True
    return dense, mask


DECODE = {"bitmask": bitmask, "two_four": two_four, "compact": compact}
