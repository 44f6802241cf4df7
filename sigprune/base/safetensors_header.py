"""Headers of safetensors files, within bounds: no tensor is read."""

from __future__ import annotations

from pathlib import Path

from sigprune.base.canonical_json import load_object
from sigprune.base.errors import CheckpointError, TooLarge, in_checkpoint
from sigprune.base.registry import JsonValue

MAX_HEADER = 25_000_000
"""Bytes of a header: what huggingface_hub reads of a remote one, too. Room for 50,000 masked tensors."""


def header_text(path: Path) -> str | None:
    """The JSON text of the header; None if there is no such file.

    Raises:
        CheckpointError: the file cannot be read, or its header is cut short or too long; names the file.
    """
    if not path.is_file():
        return None
    with in_checkpoint(str(path)):
        try:
            with path.open("rb") as file:
                start = file.read(8)
                length = int.from_bytes(start, "little")
                text = file.read(min(length, MAX_HEADER))
            whole = text.decode() if len(text) == length and len(start) == 8 else None
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(str(error)) from error
        if len(text) == MAX_HEADER < length:
            raise TooLarge(f"expected a header of at most {MAX_HEADER:,} bytes, got {length:,}")
        if whole is None:
            got = len(start) + len(text)
            raise CheckpointError(f"expected a header of {length:,} bytes, got {got:,} bytes in all")
        return whole


def read_header(path: Path) -> dict[str, JsonValue] | None:
    """Name -> ``dtype``, ``shape`` and ``data_offsets``, and ``__metadata__``; None if there is no such file.

    Raises:
        CheckpointError: as for :func:`header_text`, or it is no JSON object within bounds.
    """
    text = header_text(path)
    if text is None:
        return None
    with in_checkpoint(f"{path}: header"):
        return load_object(text)


def declared_size(path: Path) -> int:
    """Bytes of the whole file, as its header says: eight, the header, and all tensors.

    Raises:
        CheckpointError: as for :func:`read_header`, there is no such file, or an entry has no place.
    """
    text = header_text(path)
    if text is None:
        raise CheckpointError(f"{path}: no such file")
    ends = [0]
    with in_checkpoint(f"{path}: header"):
        for name, entry in load_object(text).items():
            if name == "__metadata__":
                continue
            offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
            if not isinstance(offsets, list) or len(offsets) != 2 or type(offsets[1]) is not int:
                raise CheckpointError(f"{name}: expected two data_offsets, got {offsets!r}")
            ends.append(offsets[1])
    return 8 + len(text.encode()) + max(ends)
