"""Writing models as files: packed with a manifest, and dense as other libraries read them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from sigprune.base.atomic_dir import new_folder
from sigprune.base.canonical_json import expect_readable
from sigprune.base.errors import BadInput
from sigprune.base.registry import BoundMember, JsonValue
from sigprune.checkpoint.packing import pack
from sigprune.checkpoint.safetensors_io import MAX_SHARD_BYTES, ShardWriter
from sigprune.families.codecs import Codec
from sigprune.format.index import KEY, Index, digest_of, to_index_file
from sigprune.format.manifest import Entry, Manifest
from sigprune.format.names import DENSE, DENSE_INDEX, PACKED, PACKED_INDEX, REPORT, dense_shard, packed_shard
from sigprune.sources.reference import local_path

_OURS = (PACKED, PACKED_INDEX, REPORT)
"""Files that show that sigprune wrote a folder."""


@dataclass(frozen=True)
class Written:
    """What a folder was filled with.

    Attributes:
        files: path in the folder -> bytes.
        layers: masked tensor -> entries that are kept, and all of them.
        left: files of the source that stay behind.
        warnings: what a mask that was chosen here empties, one line each.
        notes: what else there is to say, one line each.
    """

    files: Mapping[str, int]
    layers: Mapping[str, tuple[int, int]]
    left: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def kept(self) -> int:
        """Entries that the mask keeps."""
        return sum(kept for kept, _ in self.layers.values())

    @property
    def total(self) -> int:
        """Entries under the mask."""
        return sum(total for _, total in self.layers.values())

    @property
    def sparsity(self) -> float:
        """Fraction removed, in [0, 1]."""
        return 1.0 - self.kept / self.total if self.total else 0.0

    def nearly_empty(self, least: float = 0.001) -> tuple[str, ...]:
        """Masked tensors that keep a smaller share of their entries than this, most often by mistake."""
        return tuple(name for name, (kept, total) in self.layers.items() if kept < least * total)


@contextmanager
def staging_dir(folder: str | Path, *sources: str | Path | None, force: bool = False) -> Iterator[Path]:
    """A new folder for a checkpoint, as :func:`new_folder` makes it.

    Args:
        folder: the target.
        sources: what is read; a local one is never replaced.
        force: replace a checkpoint that is there.

    Raises:
        BadInput: a source lies in the folder, or nothing shows that what is there is ours.
        FolderExists: the folder is not empty.
        NoSpace: the disk is full.
    """
    target = Path(folder).expanduser().resolve()
    for source in sources if force else ():
        path = None if source is None else local_path(source)
        if path is not None and path.resolve().is_relative_to(target):
            raise BadInput(f"{folder}: replacing it would delete {source}, which is read; choose another")
    with new_folder(folder, replace=_OURS if force else ()) as staging:
        yield staging


def sizes(folder: Path) -> dict[str, int]:
    """Path in the folder -> bytes, of all files."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


@dataclass(eq=False)
class PackedWriter:
    """Tensors one by one into packed files, each with the manifest of what it holds.

    Attributes:
        folder: where the files go.
        library: the adapter that rebuilds the model.
        architecture: that library's name of it.
        tied: state-dict name of a tied copy -> the name it is stored under.
        provenance: what the manifest says beside.
        codec: how masked tensors are packed.
        max_shard_bytes: bytes of a file.
        network: what of ``config.json`` makes the network.
    """

    folder: Path
    library: str
    architecture: str
    tied: Mapping[str, str]
    provenance: Mapping[str, JsonValue]
    codec: BoundMember[Codec]
    max_shard_bytes: int = MAX_SHARD_BYTES
    network: Mapping[str, JsonValue] = field(default_factory=dict)
    _entries: dict[str, Entry] = field(default_factory=dict)
    _shards: list[Manifest] = field(default_factory=list)

    def __post_init__(self) -> None:
        expect_readable({"provenance": dict(self.provenance), "network": dict(self.network)})
        self._writer = ShardWriter(
            self.folder, PACKED, packed_shard, self._metadata, max_shard_bytes=self.max_shard_bytes
        )

    def add(
        self, name: str, tensor: Tensor, keep: Tensor | None, codec: BoundMember[Codec] | None = None
    ) -> None:
        """One tensor: on the CPU, contiguous, removed entries +0.0; packed by ``codec`` if it is given.

        Raises:
            BadInput: it cannot be stored, or not by this codec.
        """
        parts, self._entries[name] = pack(name, tensor, keep, codec or self.codec)
        self._writer.add(name, {name + suffix: part for suffix, part in parts.items()})

    def flush(self) -> None:
        """Write what was added as a file of its own."""
        self._writer.flush()

    def close(self) -> Manifest:
        """Finish the files, with an index if there are several; the manifest of the whole."""
        where = self._writer.close()
        if len(self._shards) > 1:
            files = list(dict.fromkeys(where.values()))
            shards = {name: digest_of(own) for name, own in zip(files, self._shards, strict=True)}
            index = Index(shards, Manifest.union(self._shards).mask_digest)
            text = to_index_file(index, where, self._writer.total_size)
            (self.folder / PACKED_INDEX).write_text(text, encoding="utf-8")
        return Manifest.union(self._shards)

    def _metadata(self, names: Sequence[str]) -> dict[str, str]:
        """One key at most: safetensors writes several in an order that changes from call to call."""
        own = {name: self._entries[name] for name in names}
        tied = {alias: name for alias, name in self.tied.items() if name in own}
        shard = Manifest(self.library, self.architecture, own, tied, self.provenance, self.network)
        self._shards.append(shard)
        return {KEY: shard.to_json()}


@dataclass(eq=False)
class DenseWriter:
    """Tensors one by one into ``model.safetensors``, or into numbered files with an index.

    Attributes:
        folder: where the files go.
        max_shard_bytes: bytes of a file; None: one file, whatever its size (timm reads no other).
    """

    folder: Path
    max_shard_bytes: int | None = MAX_SHARD_BYTES

    def __post_init__(self) -> None:
        max_shard_bytes = self.max_shard_bytes if self.max_shard_bytes is not None else 2**63
        self._writer = ShardWriter(
            self.folder, DENSE, dense_shard, lambda _: {"format": "pt"}, max_shard_bytes=max_shard_bytes
        )

    def add(self, name: str, tensor: Tensor) -> None:
        """One tensor, on the CPU and contiguous."""
        self._writer.add(name, {name: tensor})

    def flush(self) -> None:
        """Write what was added as a file of its own, if there may be several."""
        if self.max_shard_bytes is not None:
            self._writer.flush()

    def close(self) -> None:
        """Finish the files."""
        where = self._writer.close()
        if len(set(where.values())) > 1:
            index = {
                "metadata": {"total_size": self._writer.total_size},
                "weight_map": dict(sorted(where.items())),
            }
            (self.folder / DENSE_INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
