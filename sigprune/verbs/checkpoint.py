"""Sparse checkpoints on disk: saved whole or not at all, read only when every bit is accounted for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sigprune.base.errors import BadInput, CheckpointError
from sigprune.base.family import Plain, Step
from sigprune.base.folders import new_folder
from sigprune.base.tensors import Tensors
from sigprune.families.adapters import adapters
from sigprune.families.codecs import codecs
from sigprune.values.manifest import PACKED, Manifest
from sigprune.values.mask import Mask
from sigprune.values.view import View, expect_view
from sigprune.verbs.packing import pack, stored, unpack, zeroed

CONFIG, DENSE = "config.json", "model.safetensors"


class Reader(Protocol):
    """What is used of an open file (safetensors has no types)."""

    def offset_keys(self) -> list[str]:
        """The tensors' names, in the order of the file."""

    def get_tensor(self, name: str) -> Tensor:
        """One of them."""


@dataclass(frozen=True, eq=False)
class SparseCheckpoint:
    """A model read from disk, its mask, and what its file says about itself.

    Attributes:
        model: in evaluation mode; on the CPU unless it was given; tied tensors are tied.
        mask: as it was saved, in the order of the model's state dict.
        manifest: codec, architecture, digests, provenance.
    """

    model: nn.Module
    mask: Mask
    manifest: Manifest


def save(
    folder: str | Path,
    view: View,
    mask: Mask,
    *,
    codec: str | Step | ModuleType = "bitmask",
    extra: Mapping[str, Plain] | None = None,
) -> dict[str, dict[str, Plain]]:
    """Write a masked model as a folder that plain timm or transformers load, and packed for sigprune.

    ``config.json`` is the library's own. ``model.safetensors`` holds every tensor dense, removed entries
    +0.0, under its state-dict name, tied copies once. ``model.sparse.safetensors`` holds masked tensors as
    the codec packs them, all others as they are, and the manifest. Equal models give equal bytes.

    Args:
        folder: a new or empty folder; it appears when everything is written, and not at all on any failure.
        view: the model; its values are read, not changed.
        mask: what was removed; tensors that it does not name are stored dense.
        codec: how masked tensors are packed.
        extra: plain values for the manifest's provenance: recipe, digest of the recipe, versions.

    Returns:
        File name -> its size in ``bytes`` and its ``sha256``. Cost: a few passes over the tensors; memory:
        the packed tensors, and for a model on another device one copy of it.

    Raises:
        MaskViolated: an entry that the mask removed is not zero.
        BadInput: the mask is of another model, or a tensor cannot be stored.
        FolderExists: the folder is not empty.

    Example:
        >>> import tempfile
        >>> from sigprune import apply_, describe, load, prune, save
        >>> view = describe(nn.Linear(8, 4))
        >>> mask = prune(view, sparsity=0.5, score="magnitude")
        >>> apply_(view, mask)
        >>> folder = Path(tempfile.mkdtemp()) / "linear"
        >>> sorted(save(folder, view, mask))
        ['config.json', 'model.safetensors', 'model.sparse.safetensors']
        >>> load(folder, into=nn.Linear(8, 4)).mask == mask
        True
    """
    expect_view(view)
    tensors, tied = stored(view.module)
    mask.check(tensors)
    with new_folder(folder) as staging:
        adapters.get(view.library).write_config(view.module, staging)
        dense = {name: zeroed(tensor, mask.keep.get(name)) for name, tensor in tensors.items()}
        choice = codecs.choose(codec)
        packed, entries = pack(dense, mask, choice)
        manifest = Manifest(
            choice.name, view.library, view.architecture, entries, tied, mask.digest(), dict(extra or {})
        )
        # One metadata key at most: safetensors writes several in an order that changes from call to call.
        _write(packed, staging / PACKED, {"sigprune": manifest.to_json()})
        _write(dense, staging / DENSE, {"format": "pt"})
        return {path.name: _facts(path) for path in sorted(staging.iterdir())}


def load(ref: str | Path, *, revision: str | None = None, into: nn.Module | None = None) -> SparseCheckpoint:
    """Read the packed file of a folder that :func:`save` wrote, and build its model.

    Every name, shape, dtype, digest and count is checked before a model is touched. No pickle is read.

    Args:
        ref: a local folder.
        revision: for Hub repositories only, which are not read here: download one first.
        into: fill this model in place, instead of building one from ``config.json``. Its tensors must have
            the shapes, dtypes and ties that were saved.

    Returns:
        Model, mask and manifest. Cost: one pass over the dense tensors; memory: two models.

    Raises:
        CheckpointError: a file is missing, damaged or not what it says; names the file and the tensor.
        BadInput: ``revision`` with a local folder.

    Example:
        >>> import tempfile
        >>> from sigprune import describe, load, save
        >>> from sigprune.values.mask import Mask
        >>> view = describe(nn.Linear(2, 2))
        >>> folder = Path(tempfile.mkdtemp()) / "linear"
        >>> facts = save(folder, view, Mask({}), extra={"note": "dense"})
        >>> load(folder, into=nn.Linear(2, 2)).manifest.provenance["note"]
        'dense'
    """
    if into is not None and not isinstance(into, nn.Module):
        raise BadInput(f"into: expected a torch.nn.Module, got {type(into).__name__}")
    folder = local_folder(ref, revision)
    with reading(folder / PACKED) as (manifest, file):
        tensors, mask = unpack(manifest, file.offset_keys(), file.get_tensor)
        model = _rebuilt(folder, manifest) if into is None else into
        _fill_(model, tensors, manifest, keep_tensors=into is None)
    order = [name for name in model.state_dict() if name in mask.keep]
    return SparseCheckpoint(model.eval(), Mask({name: mask.keep[name] for name in order}), manifest)


def _write(tensors: Tensors, path: Path, metadata: dict[str, str]) -> None:
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
        raise BadInput(f"{path.name}: these tensors cannot be stored as safetensors: {error}") from error
    # safetensors makes files that only their owner can read; give them the permissions of any new file.
    path.chmod(path.parent.stat().st_mode & 0o666)


def _facts(path: Path) -> dict[str, Plain]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def local_folder(ref: str | Path, revision: str | None) -> Path:
    """The folder that a reference names.

    Raises:
        CheckpointError: there is none; says how to get it if it may be a repository.
        BadInput: a revision of a folder.
    """
    folder = Path(ref)
    if folder.is_file():
        raise CheckpointError(f"{ref}: expected a folder that sigprune wrote, got a file; name its folder")
    if not folder.is_dir():
        at = f" --revision {revision}" if revision else ""
        raise CheckpointError(
            f"{ref}: no such folder; a Hub repository is downloaded first: "
            f"hf download {ref}{at} --local-dir FOLDER, then load FOLDER"
        )
    if revision is not None:
        raise BadInput(f"{ref}: a local folder has no revisions; leave out revision={revision!r}")
    return folder


@contextmanager
def reading(path: Path) -> Iterator[tuple[Manifest, Reader]]:
    """The file, open, and its manifest; every complaint names the file."""
    try:
        with safe_open(path, framework="pt") as file:
            yield _manifest(file.metadata() or {}), cast("Reader", file)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: no such file; expected a folder that sigprune's save() wrote"
        ) from error
    except (CheckpointError, SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _manifest(metadata: Mapping[str, str]) -> Manifest:
    if set(metadata) != {"sigprune"}:
        raise CheckpointError(f"expected one metadata entry 'sigprune', got {sorted(metadata)}")
    return Manifest.parse(metadata["sigprune"])


def _rebuilt(folder: Path, manifest: Manifest) -> nn.Module:
    """The model that ``config.json`` describes, in the dtype of the stored parameters where they have one."""
    try:
        model = adapters.get(manifest.library).rebuild(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{error} (or pass a model of yours: load(..., into=model))") from error
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError, ImportError) as error:
        raise CheckpointError(
            f"{folder / CONFIG}: {manifest.library} cannot rebuild {manifest.architecture} from it: {error}; "
            "build the model yourself and pass it as load(..., into=model)"
        ) from error
    own = dict(model.named_parameters())
    dtypes = {
        e.torch_dtype
        for name, e in manifest.tensors.items()
        if name in own and e.torch_dtype.is_floating_point
    }
    if len(dtypes) == 1 and dtypes != {p.dtype for p in own.values() if p.is_floating_point()}:
        model.to(dtypes.pop())
    return model


def _fill_(model: nn.Module, tensors: Tensors, manifest: Manifest, *, keep_tensors: bool) -> None:
    """Give the model its tensors: as they are (``keep_tensors``), else copied into its own."""
    slots = model.state_dict(keep_vars=True)
    for name in sorted(slots.keys() ^ (tensors.keys() | manifest.tied.keys())):
        lacking = "file" if name in slots else "model"
        raise CheckpointError(
            f"{name}: the {lacking} lacks it; file and model are of different architectures"
        )
    for name, tensor in tensors.items():
        _fits(name, slots[name], tensor, keep_tensors)
    if not keep_tensors and stored(model)[1] != manifest.tied:
        raise CheckpointError(
            f"the given model does not tie the tensors that were tied: {dict(manifest.tied)}"
        )
    # One Parameter object under all its names keeps tied tensors tied.
    filled = {name: _like(slots[name], tensor) for name, tensor in tensors.items()}
    filled |= {alias: filled[name] for alias, name in manifest.tied.items()}
    model.load_state_dict(filled, strict=True, assign=keep_tensors)


def _fits(name: str, slot: Tensor, tensor: Tensor, any_dtype: bool) -> None:
    if slot.shape != tensor.shape or not (any_dtype or slot.dtype is tensor.dtype):
        raise CheckpointError(
            f"{name}: the model expects {slot.dtype} {tuple(slot.shape)}, "
            f"the file holds {tensor.dtype} {tuple(tensor.shape)}"
        )


def _like(slot: Tensor, tensor: Tensor) -> Tensor:
    if not isinstance(slot, nn.Parameter):
        return tensor
    return nn.Parameter(tensor, requires_grad=slot.requires_grad)
