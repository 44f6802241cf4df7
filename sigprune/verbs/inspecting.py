"""Looking at a checkpoint folder without reading its tensors."""

from __future__ import annotations

from pathlib import Path

from sigprune.base.family import Plain
from sigprune.values.manifest import Manifest
from sigprune.values.packed import read_manifest
from sigprune.verbs.locating import local_folder


def inspect(folder: str | Path) -> dict[str, Plain]:
    """What a checkpoint folder holds, from the header of its packed file alone: no tensor is read.

    Returns:
        Plain values: architecture, codec, counts and digest of the mask, ``layers`` (one per masked tensor),
        ``files`` (name -> bytes), ``provenance``.

    Raises:
        CheckpointError: there is no packed file, or its header or manifest is damaged.
    """
    folder = local_folder(folder, None)
    manifest = read_manifest(folder)
    return {
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
        "files": {
            str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()
        },
        "provenance": dict(manifest.provenance),
    }


def _layers(manifest: Manifest) -> list[Plain]:
    entries = [(name, entry, entry.kept) for name, entry in manifest.tensors.items()]
    return [
        {
            "name": name,
            "shape": list(entry.shape),
            "dtype": entry.dtype,
            "kept": kept,
            "total": entry.total,
            "sparsity": 1.0 - kept / entry.total if entry.total else 0.0,
        }
        for name, entry, kept in entries
        if kept is not None
    ]
