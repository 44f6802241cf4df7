"""Looking at a packed model: what it says of itself, and whether every bit of it is true."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from sigprune.base.canonical_json import MAX_BYTES, read_text
from sigprune.base.errors import CheckpointError, TooLarge, in_checkpoint, reading_damaged
from sigprune.base.registry import JsonValue
from sigprune.checkpoint.locate import asked, local_folder, packed_folder, repository
from sigprune.checkpoint.packing import fingerprint
from sigprune.checkpoint.read import unpacked
from sigprune.checkpoint.safetensors_io import dense_file, dense_parts, dense_tensors
from sigprune.format.index import manifests_from, read_manifest, read_manifests
from sigprune.format.manifest import Entry, Manifest
from sigprune.format.names import PACKED, PACKED_INDEX
from sigprune.format.network_config import expect_network
from sigprune.sources.hub_client import fetch, file_metadata, listing
from sigprune.sources.local_files import files_in
from sigprune.sources.reference import local_path


def inspect(ref: str | Path, *, revision: str | None = None, verify: bool = False) -> dict[str, JsonValue]:
    """What a packed model holds, from the headers of its files alone: no tensor is read.

    Of a repository only headers (requests for ranges), the index and the list of files are fetched.

    Args:
        ref: a local folder, or a repository ``user/repo[@revision]``.
        revision: branch, tag or commit of a repository.
        verify: check every bit too: all digests, that ``config.json`` makes the network of the weights, and
            that a dense file beside the packed one holds the same model. A repository's packed files are
            fetched for that, and its dense file is not looked at.

    Returns:
        Plain values: library, architecture, codec, counts and digest of the mask, ``layers`` (one per masked
        tensor), ``files`` (name -> bytes), ``provenance``; ``commit`` of a repository; ``verified``: number
        of tensors checked, by kind of file.

    Raises:
        CheckpointError: there is no packed model, or it is damaged.
        BadInput: the repository cannot be reached.
    """
    if local_path(ref) is not None:
        folder = local_folder(ref, revision)
        manifest, commit = read_manifest(folder), None
        files = dict(files_in(folder).files)
    else:
        manifest, commit, files = _remote(ref, revision)
    facts: dict[str, JsonValue] = {
        "library": manifest.library,
        "architecture": manifest.architecture,
        "codec": ", ".join(manifest.codecs),
        "sparsity": manifest.sparsity,
        "kept": manifest.kept,
        "total": manifest.total,
        "entries": sum(entry.total for entry in manifest.tensors.values()),
        "mask": manifest.mask_digest,
        "tied": dict(manifest.tied),
        "layers": _layers(manifest),
        "files": dict(files),
        "provenance": dict(manifest.provenance),
    }
    facts |= {} if commit is None else {"commit": commit}
    if verify:
        where = ref if commit is None else repository(ref, revision).name
        facts["verified"] = dict(check(packed_folder(where, commit)))
    return facts


def check(folder: Path) -> dict[str, int]:
    """Make sure that every bit of a folder's packed model, and of the dense one beside it, is what it should.

    Returns:
        Kind of file -> number of tensors checked. Cost: everything is read and decoded; memory: one tensor.

    Raises:
        CheckpointError: something is not; names file and tensor.
    """
    with reading_damaged(folder):
        return _checked(folder)


def _checked(folder: Path) -> dict[str, int]:
    shards = read_manifests(folder)
    expect_network(folder, next(iter(shards.values())))
    done = {"packed": sum(1 for _ in unpacked(folder, shards, verify=True))}
    path = dense_file(folder)
    if path is None:
        return done
    expected = dict(Manifest.union(list(shards.values())).tensors)
    with in_checkpoint(str(path)):
        for name, tensor in dense_tensors(path):
            entry = expected.pop(name, None)
            if entry is None or not _is(entry, tensor):
                raise CheckpointError(f"{name}: it is not the tensor that the packed file holds")
        for name in expected:
            raise CheckpointError(f"{name}: missing from the file; the packed file holds it")
    return done | {"dense": sum(len(shard.tensors) for shard in shards.values())}


def checked_files(folder: Path) -> frozenset[str]:
    """Names of the files that :func:`check` reads: the folder's weights.

    Raises:
        CheckpointError: there is no packed model, or an index is damaged.
    """
    packed, dense = read_manifests(folder).keys(), dense_file(folder)
    found = {*packed} if PACKED in packed else {PACKED_INDEX, *packed}
    return frozenset(found if dense is None else {*found, dense.name, *(p.name for p in dense_parts(dense))})


def _is(entry: Entry, tensor: Tensor) -> bool:
    form = (tuple(tensor.shape), tensor.dtype) == (entry.shape, entry.torch_dtype)
    return form and fingerprint(tensor) == entry.digest


def _remote(ref: str | Path, revision: str | None) -> tuple[Manifest, str, dict[str, int]]:
    """The manifest, commit and files of a repository."""
    reference = repository(ref, revision)
    name = reference.name
    commit, files = listing(name, reference.revision, asked(ref, reference))

    def index_text() -> str | None:
        if files.get(PACKED_INDEX, 0) > MAX_BYTES:
            raise TooLarge(
                f"{PACKED_INDEX}: expected at most {MAX_BYTES:,} bytes, got {files[PACKED_INDEX]:,}"
            )
        path = fetch(name, PACKED_INDEX, commit, name) if PACKED_INDEX in files else None
        return None if path is None else read_text(path)

    shards = manifests_from(
        lambda file: dict(file_metadata(name, file, commit, name)) if file in files else None,
        index_text,
        reference.full_name,
        lambda: files,
    )
    return Manifest.union(list(shards.values())), commit, files


def _layers(manifest: Manifest) -> list[JsonValue]:
    return [
        {
            "name": name,
            "shape": list(entry.shape),
            "dtype": entry.dtype,
            "kept": entry.masked.kept,
            "total": entry.total,
            "sparsity": 1.0 - entry.masked.kept / entry.total if entry.total else 0.0,
        }
        for name, entry in manifest.tensors.items()
        if entry.masked is not None
    ]
