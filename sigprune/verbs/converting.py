"""Converting checkpoints between dense and packed, tensor by tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.base.family import Plain, Step
from sigprune.base.folders import new_folder
from sigprune.families.adapters import adapters
from sigprune.families.adapters._hub import fetch, listing
from sigprune.families.codecs import codecs
from sigprune.values.bits import as_integers
from sigprune.values.manifest import SCHEMA
from sigprune.values.mask import Mask
from sigprune.values.packed import KEY, PACKED, PACKED_INDEX, is_packed_file, read_manifest, read_manifests
from sigprune.verbs.checkpoint import stored, unpacked
from sigprune.verbs.files import MOST
from sigprune.verbs.locating import CONFIG, packed_folder
from sigprune.verbs.opening import describe, open_model, split_ref
from sigprune.verbs.packing import storable
from sigprune.verbs.streaming import dense_checkpoint
from sigprune.verbs.transferring import load_mask
from sigprune.verbs.writing import DenseWriter, PackedWriter

Target = Literal["packed", "dense", "both"]

LEAST = 0.1
"""Share of zeros from which a tensor counts as pruned, where zeros have to tell."""

_BESIDE = frozenset({".json", ".jsonl", ".txt", ".model", ".yaml"})
"""Endings of what travels with the weights: vocabularies, settings."""


@dataclass(frozen=True, eq=False)
class _Source:
    """Tensors one by one, and what a manifest says of the whole."""

    library: str
    architecture: str
    tied: Mapping[str, str]
    provenance: Mapping[str, Plain]
    folder: Path
    tensors: Iterator[tuple[str, Tensor, Tensor | None]]


def convert(
    ref: str | Path,
    folder: str | Path,
    *,
    to: Target = "packed",
    codec: str | Step | ModuleType = "bitmask",
    mask: str | None = None,
    revision: str | None = None,
    most: int = MOST,
) -> dict[str, int]:
    """Write a checkpoint anew: packed, dense, or both; lossless but for the sign of removed zeros.

    A packed checkpoint brings its mask. Of a dense one (SparseML's, Wanda's, SparseGPT's, anybody's), without
    ``mask``, entries that are zero in floating tensors of two and more dimensions count as removed where they
    are at least a tenth of the tensor. No weight is changed, nothing is trained.

    Args:
        ref: a local folder, or a repository ``user/repo[@revision]``; packed files come first.
        folder: a new or empty folder; it appears when everything is written, and not at all on any failure.
        to: ``packed``, ``dense`` or ``both``.
        codec: how masked tensors are packed.
        mask: take the mask of this packed checkpoint (folder or repository) for a dense one.
        revision: branch, tag or commit of a repository.
        most: bytes of tensors in one file.

    Returns:
        File name -> bytes. Memory: one file of the source, what one written file holds, and one tensor; the
        whole model where the files of a dense one name tensors otherwise than the model does.

    Raises:
        CheckpointError: a file is damaged.
        MaskViolated: the dense checkpoint has values where the mask removes.
        BadInput: the checkpoint cannot be read, or a codec cannot pack it.
        FolderExists: the folder is not empty.

    Example:
        >>> import tempfile
        >>> from sigprune import apply_, convert, describe, open_model, prune, save
        >>> view = describe(open_model("timm:test_vit"))
        >>> pruned = prune(view, sparsity=0.9, score="magnitude")
        >>> apply_(view, pruned)
        >>> home = Path(tempfile.mkdtemp())
        >>> facts = save(home / "model", view, pruned)
        >>> sorted(convert(home / "model", home / "dense", to="dense"))
        ['config.json', 'model.safetensors']
    """
    source = _source(ref, revision, mask)
    sharded = adapters.get(source.library).SHARDED
    with new_folder(folder) as staging:
        packed = PackedWriter(
            staging, source.library, source.architecture, source.tied, source.provenance,
            codecs.choose(codec), most,
        ) if to != "dense" else None  # fmt: skip
        dense = DenseWriter(staging, most if sharded else None) if to != "packed" else None
        for name, tensor, keep in source.tensors:
            values = storable(tensor, keep)
            if packed is not None:
                packed.add(name, values, keep)
            if dense is not None:
                dense.add(name, values)
        for writer in (packed, dense):
            if writer is not None:
                writer.close()
        if not Path(ref).expanduser().exists():
            _fetch_beside(ref, revision, source.folder)
        copy_beside(source.folder, staging, source.library, packed=packed is not None)
        return {path.name: path.stat().st_size for path in sorted(staging.iterdir())}


def copy_beside(source: Path, target: Path, library: str, *, packed: bool) -> None:
    """Copy ``config.json``, which names the plug-in if packed files lie beside it, and vocabularies."""
    for path in sorted(source.iterdir()):
        other = not is_packed_file(path.name) and not path.name.endswith(".safetensors.index.json")
        if path.is_file() and path.suffix in _BESIDE and path.name not in {"report.json", CONFIG} and other:
            shutil.copyfile(path, target / path.name)
    if (source / CONFIG).is_file():
        text = (source / CONFIG).read_text(encoding="utf-8")
        text = with_plug_in(text, packed=packed) if library == "transformers" else text
        (target / CONFIG).write_text(text, encoding="utf-8")


def with_plug_in(config: str, *, packed: bool) -> str:
    """The text of a transformers ``config.json`` that says whether packed files lie beside it.

    Raises:
        BadInput: it names another format of stored weights.
    """
    fields = json.loads(config)
    known = fields.pop("quantization_config", None)
    if known is not None and known.get("quant_method") != KEY:
        raise BadInput(
            f"{CONFIG}: its weights are stored as {known.get('quant_method')}; expected plain tensors: load "
            "and save the model dense first"
        )
    if packed:
        fields["quantization_config"] = {"quant_method": KEY, "schema": SCHEMA}
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"


def _source(ref: str | Path, revision: str | None, mask: str | None) -> _Source:
    found = None if mask is None else load_mask(mask)
    folder = Path(ref).expanduser()
    local = folder.exists()
    if any((folder / name).is_file() for name in (PACKED, PACKED_INDEX)) or (
        not local and found is None and _is_packed(ref, revision)
    ):
        if found is not None:
            raise BadInput(f"{ref}: it is packed and has a mask of its own; leave out mask")
        folder = packed_folder(ref, revision)
        shards, whole = read_manifests(folder), read_manifest(folder)
        return _Source(
            whole.library, whole.architecture, whole.tied, whole.provenance, folder, unpacked(folder, shards)
        )
    return _dense(ref, revision, found, mask)


def _is_packed(ref: str | Path, revision: str | None) -> bool:
    reference = split_ref(str(ref), revision)
    return reference.kind == "hub" and any(
        is_packed_file(name) for name in listing(reference.name, reference.revision, reference.name)[1]
    )


def _dense(ref: str | Path, revision: str | None, mask: Mask | None, mask_ref: str | None) -> _Source:
    """A dense checkpoint, one tensor at a time if its files allow it."""
    found = dense_checkpoint(ref, revision=revision)
    said = origin(ref, found.folder) | {"mask_from": "zeros" if mask_ref is None else base_name(mask_ref)}
    if found.lacking:
        view = describe(open_model(str(ref), pretrained=True, revision=revision))
        tensors, tied = stored(view.module)
        return _Source(
            view.library, view.architecture, tied, said, found.folder, _masked(tensors.items(), mask)
        )
    return _Source(
        found.library,
        describe(found.model).architecture,
        found.tied,
        said,
        found.folder,
        _masked(found.tensors(), mask),
    )


def origin(ref: str | Path, folder: Path) -> dict[str, Plain]:
    """Where weights come from, for a manifest: a repository at a commit, or a folder's name."""
    if Path(ref).expanduser().exists():
        return {"source": base_name(ref)}
    return {"base_model": split_ref(str(ref)).name, "revision": folder.name}


def base_name(ref: str | Path) -> str:
    """A repository's name, or the last part of a path: whoever reads the manifest has no use for the rest."""
    path = Path(ref).expanduser()
    return path.resolve().name if path.exists() else str(ref)


def _fetch_beside(ref: str | Path, revision: str | None, folder: Path) -> None:
    """Fetch a repository's vocabularies and settings into the snapshot of the local cache."""
    name = split_ref(str(ref), revision).name
    for file in listing(name, folder.name, name)[1]:
        if Path(file).suffix in _BESIDE and "/" not in file and not is_packed_file(file):
            fetch(name, file, folder.name, name)


def _masked(
    tensors: Iterable[tuple[str, Tensor]], mask: Mask | None
) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Tensors with their part of the mask; without a mask zeros tell."""
    left = set() if mask is None else set(mask.keep)
    for name, tensor in tensors:
        left.discard(name)
        if mask is None:
            yield name, tensor, implied(tensor)
        else:
            keep = mask.keep.get(name)
            if keep is not None:
                Mask({name: keep}).check({name: tensor})
            yield name, tensor, keep
    for name in sorted(left):
        raise BadInput(f"the mask removes entries of {name}, which the checkpoint does not have")


def implied(tensor: Tensor) -> Tensor | None:
    """The mask that a tensor's zeros imply; None if it does not look pruned (see :data:`LEAST`)."""
    if tensor.dim() < 2 or not tensor.is_floating_point() or tensor.numel() == 0:
        return None
    # zero of either sign: all bits but the sign's; floating comparison is not defined for every dtype
    width = 8 * tensor.element_size()
    keep = (as_integers(tensor.detach().cpu()) & ((1 << (width - 1)) - 1)) != 0
    share = 1 - int(keep.count_nonzero()) / keep.numel()
    return keep if share >= LEAST else None
