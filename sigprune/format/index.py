"""The files of a packed model: their names, the index of several, and their headers (no tensor is read)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sigprune.base.canonical_json import get, load_object, read_text, with_digest
from sigprune.base.errors import CheckpointError, in_checkpoint, reading_damaged
from sigprune.base.registry import JsonValue
from sigprune.base.safetensors_header import read_header
from sigprune.format.manifest import KNOWN_SCHEMAS, SCHEMA, Manifest
from sigprune.format.names import PACKED, PACKED_INDEX, is_dense_file, packed_shard

KEY = "sigprune"
"""The one entry of a packed file's metadata, and of its index's: a manifest, or an :class:`Index`."""


@dataclass(frozen=True)
class Index:
    """Which files make a packed model.

    Attributes:
        shards: file name -> digest of the manifest that it carries.
        mask_digest: digest of the mask of all of them.
        schema: that of the manifests.
    """

    shards: Mapping[str, str]
    mask_digest: str
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Canonical JSON that carries its own digest."""
        return with_digest({"schema": self.schema, "shards": dict(self.shards), "mask": self.mask_digest})

    @classmethod
    def parse(cls, text: str) -> Index:
        """Read what :meth:`to_json` wrote.

        Raises:
            CheckpointError: it is something else, or names files that no packed model has.
        """
        plain = load_object(text)
        schema = plain.get("schema")
        fields = plain.keys() == {"schema", "shards", "mask", "digest"}
        if not fields or type(schema) is not int or schema not in KNOWN_SCHEMAS:
            known = " or ".join(map(str, KNOWN_SCHEMAS))
            raise CheckpointError(
                f"index: expected schema {known}, shards, mask and digest, got {text[:80]!r}"
            )
        shards = get(plain, "shards", dict)
        wanted = {packed_shard(i, len(shards)) for i in range(1, len(shards) + 1)}
        if shards.keys() != wanted or not shards:
            odd = min(shards.keys() ^ wanted, default="no file")
            raise CheckpointError(
                f"index: expected the files {packed_shard(1, len(shards))}, ..., got {odd!r}"
            )
        digests = {name: get(shards, name, str) for name in sorted(shards)}
        index = cls(digests, get(plain, "mask", str), schema)
        if index.to_json() != text:
            raise CheckpointError("index: its text and its own digest disagree; it was changed")
        return index


def not_packed(place: str, files: Iterable[str]) -> CheckpointError:
    """What to say where there is no packed model: whether there is a dense one, and how to pack it.

    Args:
        place: the folder or repository.
        files: names of the files that are there.
    """
    if dense := min(filter(is_dense_file, files), default=None):
        return CheckpointError(
            f"{place}: it is dense ({dense}) and holds no packed model; "
            f"`sigprune convert {place} NEW` packs it"
        )
    return CheckpointError(
        f"{place}: it holds neither {PACKED} nor {PACKED_INDEX}; expected what save(), run() or convert wrote"
    )


def read_index(text: str) -> Index:
    """The index in the text of a file named :data:`PACKED_INDEX`.

    Raises:
        CheckpointError: it is none.
    """
    metadata = load_object(text).get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get(KEY), str):
        raise CheckpointError(f"{PACKED_INDEX}: its metadata have no {KEY!r}; sigprune did not write it")
    return Index.parse(get(metadata, KEY, str))


def manifest_in(metadata: Mapping[str, JsonValue]) -> Manifest:
    """The manifest in a packed file's metadata.

    Raises:
        CheckpointError: there is none, or something else beside it.
    """
    if set(metadata) != {KEY}:
        raise CheckpointError(f"expected one metadata entry {KEY!r}, got {sorted(metadata)}")
    return Manifest.parse(get(metadata, KEY, str))


def _fit(index: Index, shards: Mapping[str, Manifest]) -> None:
    """Make sure that the files carry what the index expects, and are parts of one model."""
    for name, digest in index.shards.items():
        found = digest_of(shards[name])
        if found != digest:
            raise CheckpointError(f"{name}: the index expects the manifest {digest}, got {found}")
    whole = Manifest.union([shards[name] for name in index.shards])
    if whole.schema != index.schema:
        raise CheckpointError(f"schema: the index expects {index.schema}, got {whole.schema}")
    if whole.mask_digest != index.mask_digest:
        raise CheckpointError(f"mask: the index expects {index.mask_digest}, got {whole.mask_digest}")


def digest_of(manifest: Manifest) -> str:
    """SHA-256 of the manifest's text."""
    return hashlib.sha256(manifest.to_json().encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint folder, from the headers of its packed files; no tensor is read.

    Raises:
        CheckpointError: there is no such file, or it is damaged; names the file.
    """
    return Manifest.union(list(read_manifests(folder).values()))


def read_manifests(folder: Path) -> dict[str, Manifest]:
    """Likewise, file by file: file name -> what it says of its own tensors."""
    return manifests_from(
        lambda name: _metadata(folder / name),
        lambda: _text(folder / PACKED_INDEX),
        str(folder),
        lambda: [path.name for path in folder.iterdir()] if folder.is_dir() else [],
    )


def manifests_from(
    metadata: Callable[[str], Mapping[str, JsonValue] | None],
    index_text: Callable[[], str | None],
    place: str,
    files: Callable[[], Iterable[str]],
) -> dict[str, Manifest]:
    """The manifests of a packed model's files, wherever they lie.

    Args:
        metadata: file name -> metadata of the safetensors file; None if there is no such file.
        index_text: the text of the index; None if there is none.
        place: what messages call the folder or repository.
        files: names of all the files that are there; asked for if there is no packed model.

    Raises:
        CheckpointError: there is no packed model, or it is damaged; names the file.
    """
    with reading_damaged(place):
        single, text = metadata(PACKED), None
        if single is None:
            text = index_text()
            if text is None:
                raise not_packed(place, files())
        with in_checkpoint(place):
            if single is not None:
                manifest = _manifest(PACKED, single)
                with in_checkpoint(PACKED):
                    Manifest.union([manifest])
                return {PACKED: manifest}
            index = read_index(text or "")
            manifests = {name: _manifest(name, metadata(name)) for name in index.shards}
            _fit(index, manifests)
            if load_object(text or "").get("weight_map") != weight_map(manifests):
                raise CheckpointError(
                    f"{PACKED_INDEX}: its weight_map does not name the parts where they are"
                )
        return manifests


def manifest_in_file(path: Path) -> Manifest | None:
    """The manifest that a safetensors file carries; None if it carries none.

    Raises:
        CheckpointError: the file is missing or damaged, or holds other parts than its manifest names.
    """
    header = read_header(path)
    if header is None:
        raise CheckpointError(f"{path}: no such file")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or KEY not in metadata:
        return None
    manifest = _manifest(str(path), metadata)
    for name in sorted(header.keys() ^ manifest.parts()):
        missing = "not in the manifest" if name in header else "missing from the file"
        raise CheckpointError(f"{path}: {name}: {missing}")
    return manifest


def manifests_in_files(paths: Sequence[Path]) -> list[Manifest]:
    """The manifests of those among a model's files that are packed; several must be those of their index.

    Raises:
        CheckpointError: as for :func:`manifest_in_file`, or a file is of another model.
    """
    found: dict[Path, Manifest | None] = {}
    for path in paths:
        with reading_damaged(path):
            found[path] = manifest_in_file(path)
    packed = {path: manifest for path, manifest in found.items() if manifest is not None}
    for folder in {path.parent for path in packed if path.name != PACKED}:
        with reading_damaged(folder), in_checkpoint(str(folder)):
            index = read_index(_text(folder / PACKED_INDEX) or "")
            own = {path.name: manifest for path, manifest in packed.items() if path.parent == folder}
            if own.keys() != index.shards.keys():
                raise CheckpointError(f"the index names {sorted(index.shards)}, got {sorted(own)}")
            _fit(index, own)
    return list(packed.values())


def weight_map(manifests: Mapping[str, Manifest]) -> dict[str, JsonValue]:
    """Name of each stored part -> the file that holds it."""
    return {part: file for file, manifest in manifests.items() for part in manifest.parts()}


def _manifest(name: str, metadata: Mapping[str, JsonValue] | None) -> Manifest:
    if metadata is None:
        raise CheckpointError(f"{name}: no such file, though the index names it; the model is incomplete")
    with in_checkpoint(name):
        return manifest_in(metadata)


def _metadata(path: Path) -> dict[str, JsonValue] | None:
    header = read_header(path)
    if header is None:
        return None
    with in_checkpoint(str(path)):
        return get(header, "__metadata__", dict) if "__metadata__" in header else {}


def _text(path: Path) -> str | None:
    return read_text(path) if path.is_file() else None


def to_index_file(index: Index, weight_map: Mapping[str, str], total_size: int) -> str:
    """The text of the index file, which transformers reads too: metadata and tensor -> file."""
    metadata: dict[str, JsonValue] = {"total_size": total_size, KEY: index.to_json()}
    return json.dumps({"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}, indent=2) + "\n"
