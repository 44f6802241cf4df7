"""Files of tensors: safetensors alone, written whole, in as many files as their size asks for."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sigprune.base.atomic_dir import bytes_in, taking
from sigprune.base.canonical_json import get, read_object
from sigprune.base.errors import BadInput, CheckpointError, in_checkpoint, reading_damaged
from sigprune.base.registry import JsonValue
from sigprune.base.safetensors_header import MAX_HEADER, header_text
from sigprune.base.tensors import Tensors
from sigprune.format.names import DENSE, DENSE_INDEX

MAX_SHARD_BYTES = 5 * 10**9
"""Bytes of tensors in one file, unless a single tensor is larger."""


MAX_TENSORS = 20_000
"""Tensors in one file, so that readers take its header; files of a whole model in one aside."""


class Header(Protocol):
    """What a file says of a tensor."""

    def get_shape(self) -> list[int]:
        """Its sizes."""

    def get_dtype(self) -> str:
        """Its dtype, as safetensors names it."""


class Reader(Protocol):
    """What is used of an open file (safetensors has no types)."""

    def offset_keys(self) -> list[str]:
        """The tensors' names, in the order of the file."""

    def get_tensor(self, name: str) -> Tensor:
        """One of them."""

    def get_slice(self, name: str) -> Header:
        """One of them, not read yet."""


@contextmanager
def reading(path: Path) -> Iterator[Reader]:
    """The file, open; every complaint names it.

    Tensors are read when they are asked for, into memory of their own, and never mapped: a mapped file that
    somebody cuts short would end the process (SIGBUS).

    Args:
        path: a safetensors file.

    Raises:
        CheckpointError: it is missing, may not be read or is damaged, or the block raises one.
    """
    with reading_damaged(path):
        try:
            _expect_header(path)
            with safe_open(path, framework="pt", backend="pread") as file:
                yield cast("Reader", file)
        except (CheckpointError, SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error


def _expect_header(path: Path) -> None:
    """Make sure that it can be opened: safetensors calls every file absent that it cannot."""
    if header_text(path) is None:
        raise CheckpointError("no such file")


def write_file(tensors: Tensors, path: Path, metadata: dict[str, str]) -> None:
    """Write one file.

    Raises:
        BadInput: safetensors cannot hold these tensors.
        OSError: the disk is full.
    """
    if "__metadata__" in tensors:
        raise BadInput("__metadata__: safetensors keeps this name for itself; give the tensor another one")
    storages: set[int] = set()
    own: Tensors = {}
    for name, tensor in tensors.items():
        # Different views of one storage are stored one by one; safetensors would refuse them.
        place = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if place in storages else tensor
        storages.add(place)
    try:
        save_file(own, path, metadata)
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        if f"os error {errno.ENOSPC}" in str(error):  # its errors carry the system's as text only
            raise OSError(errno.ENOSPC, "no space left on device", str(path)) from error
        raise BadInput(f"{path.name}: these tensors cannot be stored as safetensors: {error}") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER:
        path.unlink()
        raise BadInput(
            f"{path.name}: its header would have {length:,} bytes, readers take {MAX_HEADER:,}: write "
            "smaller files (max_shard_bytes, --max-shard), or shorter provenance"
        )
    # safetensors makes files that only their owner can read; give them the permissions of any new file.
    path.chmod(path.parent.stat().st_mode & 0o666)


def file_facts(path: Path) -> dict[str, JsonValue]:
    """Its size in ``bytes`` and its ``sha256``."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def dense_file(folder: Path) -> Path | None:
    """The folder's dense weights: one file, or the index of several; None if it has none."""
    return next((folder / name for name in (DENSE, DENSE_INDEX) if (folder / name).is_file()), None)


def dense_parts(path: Path) -> list[Path]:
    """The files of dense weights: the file itself, or those that an index names.

    Raises:
        CheckpointError: the index is damaged, or names files elsewhere or that are not there.
    """
    if path.suffix != ".json":
        return [path]
    index = read_object(path)
    with in_checkpoint(str(path)):
        named = list(get(index, "weight_map", dict).values())
        for name in named:
            if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
                raise CheckpointError(f"expected names of safetensors files beside it, got {name!r}")
            if not (path.parent / name).is_file():
                raise CheckpointError(f"it names {name}, which is not there")
    return [path.parent / name for name in sorted(set(map(str, named)))]


def dense_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, one at a time, each in memory of its own; file by file.

    Args:
        path: a safetensors file, or the index of several.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    for part in dense_parts(path):
        with reading(part) as file:
            for name in file.offset_keys():
                yield name, file.get_tensor(name)


class ShardWriter:
    """Tensors in one file, or in numbered ones where they are larger than a file may be.

    Memory: what one file holds.

    Args:
        folder: where the files go.
        single: name of the file if one is enough.
        numbered: (number from 1, count) -> name of one of several.
        metadata: names of what was added to a file -> its metadata.
        max_shard_bytes: bytes of tensors in one file; it holds :data:`MAX_TENSORS` if there may be several.
    """

    def __init__(
        self,
        folder: Path,
        single: str,
        numbered: Callable[[int, int], str],
        metadata: Callable[[Sequence[str]], dict[str, str]],
        *,
        max_shard_bytes: int = MAX_SHARD_BYTES,
    ) -> None:
        self._folder, self._single, self._numbered = folder, single, numbered
        self._metadata, self._max_shard_bytes = metadata, max_shard_bytes
        self._names: set[str] = set()
        self._waiting: Tensors = {}
        self._added: list[str] = []
        self._bytes = 0
        self._files: list[tuple[Path, list[str]]] = []
        self.total_size = 0

    def add(self, name: str, tensors: Tensors) -> None:
        """Tensors that belong together, so in one file.

        Raises:
            BadInput: a name was given before, or the tensors that waited cannot be stored.
        """
        for duplicate in self._names & tensors.keys():
            raise BadInput(f"{duplicate}: two tensors would have this name in {self._single}")
        self._names |= tensors.keys()
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        full = self._bytes + size > self._max_shard_bytes or (
            len(self._added) >= MAX_TENSORS and self._max_shard_bytes < 2**63
        )
        if self._added and full:
            self._flush()
        self._waiting |= tensors
        self._added.append(name)
        self._bytes += size
        self.total_size += size

    def flush(self) -> None:
        """Write what was added since the last file, if anything was."""
        if self._added:
            self._flush()

    def close(self) -> dict[str, str]:
        """Write what is left and give the files their names: tensor -> file, in the order of the files."""
        if self._added or not self._files:
            self._flush()
        where: dict[str, str] = {}
        for i, (path, names) in enumerate(self._files, start=1):
            final = self._single if len(self._files) == 1 else self._numbered(i, len(self._files))
            path.rename(self._folder / final)
            where |= dict.fromkeys(names, final)
        return where

    def _flush(self) -> None:
        path = self._folder / f"{self._single}.{len(self._files)}.part"
        with taking(self._folder, bytes_in(self._folder, but=path) + self._bytes):
            write_file(self._waiting, path, self._metadata(self._added))
        self._files.append((path, list(self._waiting)))
        self._waiting, self._added, self._bytes = {}, [], 0
