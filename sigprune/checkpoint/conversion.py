"""Converting checkpoints between dense and packed, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor, nn

from sigprune.base.bits import as_integers
from sigprune.base.canonical_json import read_object, read_text
from sigprune.base.errors import BadInput, reading_damaged
from sigprune.base.registry import JsonValue, MemberSpec
from sigprune.base.renamed import old_keywords
from sigprune.checkpoint.dense_reader import dense_checkpoint, skeleton_of
from sigprune.checkpoint.locate import packed_folder
from sigprune.checkpoint.packing import storable
from sigprune.checkpoint.read import load_mask, unpacked
from sigprune.checkpoint.safetensors_io import MAX_SHARD_BYTES
from sigprune.checkpoint.save import stored
from sigprune.checkpoint.sidecar_files import copy_sidecar_files, record_files_, with_plug_in
from sigprune.checkpoint.state_dict_files import StateDictFile, each, fitted, read_state_dict
from sigprune.checkpoint.writers import DenseWriter, PackedWriter, Written, sizes, staging_dir
from sigprune.families.adapters import adapters
from sigprune.families.codecs import codecs
from sigprune.format.index import read_manifest, read_manifests
from sigprune.format.manifest import Manifest
from sigprune.format.names import CONFIG, PACKED, PACKED_INDEX, is_packed_file
from sigprune.format.network_config import expect_counts, expect_network, network_in
from sigprune.models.bounded_build import bounded_modules
from sigprune.models.opening import describe, library_of, open_model, parse_ref
from sigprune.sources.files import folder_of
from sigprune.sources.hub_client import listing
from sigprune.sources.reference import ModelRef, local_path
from sigprune.values.mask import Mask

Target = Literal["packed", "dense", "both"]

PROVED = "names and shapes"
"""What a folder that is written tensor by tensor is known to share with the model of its configuration."""

LEAST = 0.1
"""Share of zeros from which a tensor counts as pruned, where zeros have to tell."""

_SIGNED_ZERO = frozenset({
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
})
"""Dtypes whose zeros have no bit but the sign's; elsewhere these bits are 2 ** -127, 2 or NaN."""


@dataclass(frozen=True, eq=False)
class _Source:
    """Tensors one by one, and what a manifest says of the whole; codecs and manifest of a packed one.

    ``model`` is given where weights come from elsewhere, and then has no values; ``folder`` is None where
    only the library knows the model.
    """

    library: str
    architecture: str
    tied: Mapping[str, str]
    provenance: Mapping[str, JsonValue]
    folder: Path | None
    tensors: Iterator[tuple[str, Tensor, Tensor | None]]
    codecs: Mapping[str, str] | None = None
    manifest: Manifest | None = None
    model: nn.Module | None = None
    file: Path | None = None
    notes: tuple[str, ...] = ()

    def copy_sidecars(self, ref: str | Path, target: Path, *, packed: bool) -> tuple[str, ...]:
        """Write ``config.json``, and what lies beside it; what stays behind."""
        if self.folder is not None:
            same = self.model is None  # other weights: what a run said of its own is not true of them
            return copy_sidecar_files(ref, self.folder, target, self.library, packed=packed, same=same)
        if self.model is not None:
            adapters.get(self.library).write_config(self.model, target, None)
        if self.library == "transformers":
            text = with_plug_in(read_text(target / CONFIG), packed=packed)
            (target / CONFIG).write_text(text, encoding="utf-8")
        return ()


@old_keywords(most="max_shard_bytes")
def convert(
    ref: str | Path,
    folder: str | Path,
    *,
    to: Target = "packed",
    codec: str | MemberSpec | ModuleType | None = None,
    mask: str | None = None,
    revision: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    force: bool = False,
    accept_config: bool = False,
) -> Written:
    """Write a checkpoint anew: packed, dense, or both; lossless but for the sign of removed zeros.

    A packed checkpoint brings its mask. Of a dense one (SparseML's, Wanda's, SparseGPT's, anybody's), without
    ``mask``, entries that are zero in floating tensors of two and more dimensions count as removed where they
    are at least a tenth of the tensor. No weight is changed, nothing is trained. Settings, vocabularies and
    the report and figures of a run are copied; a card is not, as it speaks of other files (a push makes one).

    Args:
        ref: a local folder, or a repository ``user/repo[@revision]``; packed files come first.
        folder: a new or empty folder; it appears when everything is written, and not at all on any failure.
        to: ``packed``, ``dense`` or ``both``.
        codec: how masked tensors are packed; None: as they are, those of a dense checkpoint by ``bitmask``.
        mask: take the mask of this packed checkpoint (folder or repository) for a dense one.
        revision: branch, tag or commit of a repository.
        max_shard_bytes: bytes of tensors in one file.
        force: replace a checkpoint that the folder holds.
        accept_config: take ``config.json`` as it is, though it no longer makes the network that the packed
            weights were written with: it was edited, and the edit is meant.

    Returns:
        What was written, and what stays behind. Memory: one file of the source, what one written file holds,
        and one tensor; the whole model where the files of a dense one name tensors otherwise than it does.

    Raises:
        CheckpointError: a file is damaged.
        MaskViolated: the dense checkpoint has values where the mask removes.
        BadInput: the checkpoint cannot be read, or a codec cannot pack it, or nothing of it is sparse.
        FolderExists: the folder is not empty.
        NoSpace: the disk is full.

    Example:
        >>> import tempfile
        >>> from sigprune import apply_, convert, describe, open_model, prune, save
        >>> view = describe(open_model("timm:test_vit"))
        >>> pruned = prune(view, sparsity=0.9, score="magnitude")
        >>> apply_(view, pruned)
        >>> home = Path(tempfile.mkdtemp())
        >>> facts = save(home / "model", view, pruned)
        >>> sorted(convert(home / "model", home / "dense", to="dense").files)
        ['config.json', 'model.safetensors']
    """
    reference = parse_ref(str(ref), revision)
    with reading_damaged(ref):
        source = _source(ref, reference, revision, mask)
        if source.manifest is not None and source.folder is not None and not accept_config:
            expect_network(source.folder, source.manifest)
    return _write(
        ref, folder, source, to=to, codec=codec, mask=mask, max_shard_bytes=max_shard_bytes, force=force
    )


def convert_state_dict(
    weights: str | Path | StateDictFile,
    ref: str | Path,
    folder: str | Path,
    *,
    to: Target = "dense",
    codec: str | MemberSpec | ModuleType | None = None,
    mask: str | None = None,
    revision: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    force: bool = False,
) -> Written:
    """Write a state dict that is in a pickle (``.pth``, ``.pt``, ``.bin``) as a folder that can be opened.

    It is read on the caller's word, tensors alone (``torch.load(weights_only=True)``), plain or under a key
    that trainers use (``state_dict``, ``model``); ``module.`` before all names is left out.

    Args:
        weights: the file.
        ref: what says the model: a folder or repository with its ``config.json``, whose own weights are not
            read, or a name (``timm:NAME``, ``transformers:TYPE``).
        folder: a new or empty folder; it appears when everything is written, and not at all on any failure.
        to: ``dense``, ``packed`` or ``both``.
        codec: how masked tensors are packed; None: ``bitmask``.
        mask: take the mask of this packed checkpoint; None: zeros tell, as for :func:`convert`.
        revision: branch, tag or commit of a repository.
        max_shard_bytes: bytes of tensors in one file.
        force: replace a checkpoint that the folder holds.

    Returns:
        What was written, what stays behind, and how the tensors were named.

    Raises:
        BadInput: the file holds other things than tensors, or its names and shapes are not the model's.
        FolderExists: the folder is not empty.
        NoSpace: the disk is full.
    """
    file = weights if isinstance(weights, StateDictFile) else StateDictFile(Path(weights))
    with reading_damaged(file.path):
        source = _from_state_dict(ref, parse_ref(str(ref), revision), file, mask)
    return _write(
        ref, folder, source, to=to, codec=codec, mask=mask, max_shard_bytes=max_shard_bytes, force=force
    )


def _write(
    ref: str | Path,
    folder: str | Path,
    source: _Source,
    *,
    to: Target,
    codec: str | MemberSpec | ModuleType | None,
    mask: str | None,
    max_shard_bytes: int,
    force: bool,
) -> Written:
    sharded = adapters.get(source.library).SHARDED
    kept = (source.codecs or {}) if codec is None else {}
    chosen = {name: codecs.choose(own) for name, own in kept.items()}
    layers: dict[str, tuple[int, int]] = {}
    with staging_dir(folder, ref, mask, source.file, force=force) as staging:
        with reading_damaged(ref):
            left = source.copy_sidecars(ref, staging, packed=to != "dense")
        packed = PackedWriter(
            staging, source.library, source.architecture, source.tied, source.provenance,
            codecs.choose(codec or "bitmask"), max_shard_bytes, network_in(staging),
        ) if to != "dense" else None  # fmt: skip
        dense = DenseWriter(staging, max_shard_bytes if sharded else None) if to != "packed" else None
        for name, tensor, keep in source.tensors:
            values = storable(tensor, keep)
            if keep is not None:
                layers[name] = int(keep.count_nonzero()), keep.numel()
            if packed is not None:
                packed.add(name, values, keep, chosen.get(name))
            if dense is not None:
                dense.add(name, values)
        if packed is not None and source.codecs is None and mask is None and not layers:
            raise BadInput(
                f"{ref}: nothing in it is sparse: expected tensors that are {LEAST:.0%} zeros; name "
                "the checkpoint that has its mask (--mask), or prune it (sigprune prune)"
            )
        for writer in (packed, dense):
            if writer is not None:
                writer.close()
        record_files_(staging)
        return Written(sizes(staging), layers, left, notes=source.notes)


def _source(ref: str | Path, reference: ModelRef, revision: str | None, mask: str | None) -> _Source:
    if _is_packed(reference):
        if mask is not None:
            raise BadInput(f"{ref}: it is packed and has a mask of its own; leave out mask")
        folder = packed_folder(reference.name if reference.kind == "folder" else ref, revision)
        shards, whole = read_manifests(folder), read_manifest(folder)
        own = {name: entry.masked.codec for name, entry in whole.tensors.items() if entry.masked is not None}
        return _Source(
            whole.library,
            whole.architecture,
            whole.tied,
            whole.provenance,
            folder,
            unpacked(folder, shards),
            own,
            whole,
        )
    return _dense(ref, revision, None if mask is None else load_mask(mask), mask)


def _is_packed(reference: ModelRef) -> bool:
    if reference.kind == "folder":
        return any((Path(reference.name) / name).is_file() for name in (PACKED, PACKED_INDEX))
    return reference.kind == "hub" and any(
        is_packed_file(name) for name in listing(reference.name, reference.revision, reference.name)[1]
    )


def _dense(ref: str | Path, revision: str | None, mask: Mask | None, mask_ref: str | None) -> _Source:
    """A dense checkpoint, one tensor at a time if its files allow it."""
    found = dense_checkpoint(ref, revision=revision)
    recorded = origin(ref, found.folder) | {
        "mask_from": "zeros" if mask_ref is None else base_name(mask_ref),
        "proved": PROVED,
    }
    if found.missing:
        view = describe(open_model(str(ref), pretrained=True, revision=revision))
        tensors, tied = stored(view.module)
        return _Source(
            view.library, view.architecture, tied, recorded, found.folder, _masked(tensors.items(), mask)
        )
    return _Source(
        found.library,
        describe(found.model).architecture,
        found.tied,
        recorded,
        found.folder,
        _masked(found.tensors(), mask),
    )


def _from_state_dict(
    ref: str | Path, reference: ModelRef, file: StateDictFile, mask_ref: str | None
) -> _Source:
    """The tensors of a pickle, once it is clear that they are the model's."""
    path = file.path.expanduser()
    if library_of(reference) == "torch":
        raise BadInput(
            f"{ref}: no folder can say how a model of one's own is made: load the file into the model "
            "yourself, and sigprune.save it"
        )
    read, library = read_state_dict(path), reference.kind == "library"
    folder = None if library else folder_of(reference.source)
    if folder is None:
        skeleton = skeleton_of(reference)
    else:
        expect_counts(read_object(folder / CONFIG), len(read.tensors), folder / CONFIG)
        with bounded_modules(len(read.tensors), folder / CONFIG):
            skeleton = skeleton_of(reference)
    found = fitted(read, skeleton, path, by_order=file.by_order)
    mask = None if mask_ref is None else load_mask(mask_ref)
    recorded: dict[str, JsonValue] = {"source": path.name, "model": str(ref) if library else base_name(ref)}
    recorded |= {"mask_from": "zeros" if mask_ref is None else base_name(mask_ref), "proved": PROVED}
    return _Source(
        skeleton.library,
        describe(skeleton.model).architecture,
        skeleton.tied,
        recorded,
        folder,
        _masked(each(found.tensors), mask),
        model=skeleton.model,
        file=path,
        notes=found.notes,
    )


def origin(ref: str | Path, folder: Path) -> dict[str, JsonValue]:
    """Where weights come from, for a manifest: a repository at a commit, or a folder's name."""
    reference = parse_ref(str(ref))
    if reference.kind == "folder":
        return {"source": base_name(reference.name)}
    return {"base_model": reference.name, "revision": folder.name}


def base_name(ref: str | Path) -> str:
    """A repository's name, or the last part of a path: whoever reads the manifest has no use for the rest."""
    path = local_path(ref)
    return str(ref) if path is None else path.resolve().name


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
                Mask({name: keep}).check({name: tensor}, why="the mask is of another model")
            yield name, tensor, keep
    for name in sorted(left):
        raise BadInput(f"the mask removes entries of {name}, which the checkpoint does not have")


def implied(tensor: Tensor) -> Tensor | None:
    """The mask that a tensor's zeros imply; None if it does not look pruned (see :data:`LEAST`)."""
    if tensor.dim() < 2 or tensor.dtype not in _SIGNED_ZERO or tensor.numel() == 0:
        return None
    # zero of either sign: all bits but the sign's; floating comparison is not defined for every dtype
    width = 8 * tensor.element_size()
    keep = (as_integers(tensor.detach().cpu()) & ((1 << (width - 1)) - 1)) != 0
    share = 1 - int(keep.count_nonzero()) / keep.numel()
    return keep if share >= LEAST else None
