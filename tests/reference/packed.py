"""A reader of packed files written from docs/format.md alone: struct, json, numpy and zstandard."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path

import numpy as np
import zstandard

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
    manifest = json.loads(header.pop("__metadata__")["sigprune"])
    digest = manifest.pop("digest")
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == digest
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
    text = json.dumps(bits, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == manifest["mask"]
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


def compact(parts: dict[str, bytes], entry: dict, kind: str) -> tuple[np.ndarray, np.ndarray]:
    width, kept, size = int(kind[1:]), entry["kept"], math.prod(entry["shape"])
    high = zstandard.ZstdDecompressor().decompress(parts["_sparse_exponents"])
    words = []
    for i in range(kept):
        low = parts[""][i * (width - 1) : (i + 1) * (width - 1)]
        word = int.from_bytes(low + high[i : i + 1], "little")
        if "float" in entry["dtype"]:
            word = word >> 1 | (word & 1) << 8 * width - 1
        words.append(word)
    how, frame = parts["_sparse_positions"][0], parts["_sparse_positions"][1:]
    content = zstandard.ZstdDecompressor().decompress(frame)
    if how == 0:
        mask = unpacked(content, size)
    else:
        mask, place, ends = np.zeros(size, bool), 0, 0
        for byte in content:
            place += byte
            if byte < 255:
                if ends < kept:
                    mask[place] = True
                    place += 1
                ends += 1
        assert (ends, place) == (kept + 1, size)
    dense = np.zeros(size, kind)
    dense[mask] = np.array(words, kind)
    return dense, mask


DECODE = {"bitmask": bitmask, "two_four": two_four, "compact": compact}
