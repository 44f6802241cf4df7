"""Sparse checkpoints on disk: saved whole or not at all, read only when every bit is accounted for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor, nn

from sigprune.base.canonical import read_object
from sigprune.base.errors import BadInput, CheckpointError, TooLarge, in_checkpoint, reading_damaged
from sigprune.base.family import Plain, Step
from sigprune.base.folders import new_folder
from sigprune.base.tensors import Tensors
from sigprune.families.adapters import adapters
from sigprune.families.codecs import codecs
from sigprune.values.manifest import Manifest
from sigprune.values.mask import Mask
from sigprune.values.network import CONFIG, expect_counts, expect_network, network_in
from sigprune.values.origin import origin_in, remember_origin_
from sigprune.values.packed import PACKED, PACKED_INDEX, read_manifests
from sigprune.values.preprocessing import Preprocessing
from sigprune.values.view import View, expect_view
from sigprune.verbs.constructing import at_most
from sigprune.verbs.emptied import EmptiedWeights, emptied
from sigprune.verbs.files import MOST, file_facts, reading
from sigprune.verbs.locating import packed_folder
from sigprune.verbs.packing import storable, unpack
from sigprune.verbs.rebuilding import in_dtype, prove_config, rebuilt
from sigprune.verbs.writing import DenseWriter, PackedWriter

_BUFFERS = 2**30
"""Bytes of buffers that a network makes itself, beyond as many as are stored."""


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


class SavesItself(Protocol):
    """A tokenizer or processor of transformers."""

    def save_pretrained(self, save_directory: Path) -> object:
        """Write its files into the folder."""


def save(
    folder: str | Path,
    view: View,
    mask: Mask,
    *,
    codec: str | Step | ModuleType = "bitmask",
    extra: Mapping[str, Plain] | None = None,
    most: int = MOST,
    preprocessing: Preprocessing | None = None,
    processor: SavesItself | None = None,
    tokenizer: SavesItself | None = None,
) -> dict[str, dict[str, Plain]]:
    """Write a masked model as a folder that plain timm or transformers load, and packed for sigprune.

    ``config.json`` is the library's own. ``model.safetensors`` holds every tensor dense, removed entries
    +0.0, under its state-dict name, tied copies once. ``model.sparse.safetensors`` holds masked tensors as
    the codec packs them, all others as they are, and the manifest (docs/format.md). Models larger than
    ``most`` come as numbered files with an index, but for the dense file of timm, which reads one file only.
    Equal models give equal bytes.

    Args:
        folder: a new or empty folder; it appears when everything is written, and not at all on any failure.
        view: the model; its values are read, not changed.
        mask: what was removed; tensors that it does not name are stored dense.
        codec: how masked tensors are packed.
        extra: plain values for the manifest's provenance: recipe, digest of the recipe, versions.
        most: bytes of tensors in one file.
        preprocessing: how an image file becomes the model's input, and the names of its outputs, for the
            library's own transform or image processor; None: what the model's own configuration says.
        processor: of transformers, for images, sound or several kinds of input: written beside the weights.
        tokenizer: likewise. Without them those of the folder or repository are copied that a model of
            transformers was opened from.

    Returns:
        File name -> its size in ``bytes`` and its ``sha256``. Cost: a few passes over the tensors; memory:
        what one file holds.

    Raises:
        MaskViolated: an entry that the mask removed is not zero.
        BadInput: ``config.json`` would make another model: a layer was replaced, cut or set otherwise by
            hand, an adapter was added. The model that it makes, given the module's tensors without a copy,
            must have the same names, shapes, settings of modules and output for the view's example (models
            of one's own have no such configuration). Or the mask is of another model, or a tensor cannot be
            stored.
        FolderExists: the folder is not empty.
        NoSpace: the disk is full.

    Warns:
        EmptiedWeights: nothing is kept of a weight, of a block, or of any path; the manifest's provenance
            says so too (``findings``).

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
    adapter = adapters.get(view.library)
    with new_folder(folder) as staging:
        adapter.write_config(view.module, staging, preprocessing)
        for companion in (processor, tokenizer):
            if companion is not None:
                companion.save_pretrained(staging)
        prove_config(view, staging)
        provenance: dict[str, Plain] = dict(extra or {})
        if view.weights_origin == "pretrained":
            provenance.setdefault("weights_origin", "pretrained")
        provenance |= _findings(view, mask)
        packed = PackedWriter(
            staging, view.library, view.architecture, tied, provenance, codecs.choose(codec), most,
            network_in(staging),
        )  # fmt: skip
        dense = DenseWriter(staging, most if adapter.SHARDED else None)
        for name, tensor in tensors.items():
            keep = mask.keep.get(name)
            values = storable(tensor, keep)
            packed.add(name, values, keep)
            dense.add(name, values)
        packed.close()
        dense.close()
        return {path.name: file_facts(path) for path in sorted(staging.iterdir())}


def load(
    ref: str | Path, *, revision: str | None = None, into: nn.Module | None = None, verify: bool = False
) -> SparseCheckpoint:
    """Read a packed model from a folder or from the Hub, and build it.

    Every name, shape, dtype and count and the digests of all stored bytes are checked. No pickle is read.

    Args:
        ref: a local folder, or a repository ``user/repo[@revision]``, of which ``config.json`` and the
            packed files are fetched.
        revision: branch, tag or commit of a repository.
        into: fill this model in place, instead of building one from ``config.json``. Its tensors must have
            the shapes, dtypes and ties that were saved; it is not touched unless everything is in order.
        verify: check the digests of the decoded tensors and masks too, about a second for 2 GB.

    Returns:
        Model, mask and manifest. Cost: one pass over the dense tensors; memory: the model, its mask and one
        tensor; with ``into`` two models.

    Raises:
        CheckpointError: a file is missing, damaged or not what it says; names the file and the tensor.
        BadInput: a revision of a local folder, or a repository that cannot be reached.

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
    folder = packed_folder(ref, revision, config=into is None)
    shards = read_manifests(folder)
    manifest = Manifest.union(list(shards.values()))
    place = str(folder / (PACKED if PACKED in shards else PACKED_INDEX))
    if into is None:
        with reading_damaged(folder / CONFIG):
            _expect_fitting_config(folder, manifest, place)
    model = _rebuilt(folder, manifest) if into is None else into
    slots = model.state_dict(keep_vars=True)
    with in_checkpoint(place):
        _expect_fit(model, slots, manifest, any_dtype=into is None)
    if into is None:
        _untie_(model, slots, manifest)
    keep: Tensors = {}
    waiting: Tensors = {}
    for name, tensor, own in unpacked(folder, shards, verify=verify):
        if own is not None:
            keep[name] = own
        if into is None:
            slots[name].data = tensor
        else:
            waiting[name] = tensor
    with torch.no_grad():
        for name, tensor in waiting.items():
            slots[name].copy_(tensor)
    # One Parameter object under all its names keeps tied tensors tied.
    tied = {alias: slots[name] for alias, name in manifest.tied.items() if slots[alias] is not slots[name]}
    model.load_state_dict(tied, strict=False, assign=True)
    remember_origin_(model, origin_in(manifest.provenance))
    return SparseCheckpoint(
        model.eval(), Mask({name: keep[name] for name in slots if name in keep}), manifest
    )


def unpacked(
    folder: Path, shards: Mapping[str, Manifest], *, verify: bool = False
) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Name, dense tensor and mask of every tensor of a packed model, one at a time.

    Args:
        folder: where the files are.
        shards: what :func:`~sigprune.values.packed.read_manifests` found there.
        verify: as for :func:`load`.

    Raises:
        CheckpointError: a file is not what its manifest says; names file and tensor.
    """
    for file_name, manifest in shards.items():
        with reading(folder / file_name) as file:
            expected = manifest.parts()
            for name in sorted(expected ^ set(file.offset_keys())):
                missing = "missing from the file" if name in expected else "not in the manifest"
                raise CheckpointError(f"{name}: {missing}")
            for name, entry in manifest.tensors.items():
                yield name, *unpack(name, entry, file, verify=verify)


def stored(module: nn.Module) -> tuple[Tensors, dict[str, str]]:
    """Every tensor of the state dict once, and tied name -> the name that it is stored under.

    Raises:
        BadInput: an entry is no tensor, or a tensor that is sparse or on the meta device.
    """
    tensors: Tensors = {}
    tied: dict[str, str] = {}
    first: dict[object, str] = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor) or value.is_meta or value.layout is not torch.strided:
            raise BadInput(
                f"{name}: expected a dense tensor with values, got {_kind(value)}; it cannot be stored"
            )
        place = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
        canonical = first.setdefault(place if value.numel() else name, name)
        if canonical == name:
            tensors[name] = value
        else:
            tied[name] = canonical
    return tensors, tied


def _findings(view: View, mask: Mask) -> dict[str, Plain]:
    """What the mask empties, for the provenance; warned of, too."""
    found = emptied(view, mask)
    if not str(found):
        return {}
    warnings.warn(str(found), EmptiedWeights, stacklevel=3)
    return {"findings": [str(finding) for finding in found.findings()]}


def _kind(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return "a tensor on the meta device" if value.is_meta else f"a tensor of layout {value.layout}"


def _expect_fitting_config(folder: Path, manifest: Manifest, place: str) -> None:
    """Make sure that ``config.json`` makes the network of the files, before any memory is taken for it.

    It is built on the meta device for that; a few constructors need values, and are only counted.
    """
    path = folder / CONFIG
    if not path.is_file():
        return
    expect_network(folder, manifest)
    names = len(manifest.tensors) + len(manifest.tied)
    expect_counts(read_object(path), names, path)
    with at_most(names, path):
        skeleton = _skeleton(folder, manifest)
    if skeleton is None:
        return
    with in_checkpoint(place):
        _expect_fit(skeleton, skeleton.state_dict(keep_vars=True), manifest, any_dtype=True)
    stored = sum(entry.total * entry.torch_dtype.itemsize for entry in manifest.tensors.values())
    made = sum(b.nbytes for name, b in skeleton.named_buffers() if name not in manifest.tensors)
    if made > stored + _BUFFERS:
        raise TooLarge(
            f"{path}: it makes a network with {made:,} bytes of buffers beside {stored:,} bytes of stored "
            f"tensors; expected at most {_BUFFERS:,} more than these"
        )


def _skeleton(folder: Path, manifest: Manifest) -> nn.Module | None:
    """The model on the meta device; None where that fails: what is wrong is said by :func:`_rebuilt`."""
    try:
        with torch.device("meta"):
            return adapters.get(manifest.library).rebuild(folder)
    except Exception:
        return None


def _rebuilt(folder: Path, manifest: Manifest) -> nn.Module:
    """The model that ``config.json`` describes, in the dtype of the stored parameters where they have one."""
    with at_most(len(manifest.tensors) + len(manifest.tied), folder / CONFIG):
        model = rebuilt(folder, manifest.library, manifest.architecture)
    own = dict(model.named_parameters())
    dtypes = {
        e.torch_dtype
        for name, e in manifest.tensors.items()
        if name in own and e.torch_dtype.is_floating_point
    }
    return in_dtype(model, dtypes)


def _untie_(model: nn.Module, slots: dict[str, Tensor], manifest: Manifest) -> None:
    """Give tensors that were stored apart memory of their own, though the configuration ties them."""
    seen: set[int] = set()
    for name in [name for name in slots if name in manifest.tensors]:
        if id(slots[name]) in seen:
            path, _, own = name.rpartition(".")
            fresh = torch.empty_like(slots[name])
            if isinstance(slots[name], nn.Parameter):
                fresh = nn.Parameter(fresh, requires_grad=slots[name].requires_grad)
            setattr(model.get_submodule(path), own, fresh)
            slots[name] = fresh
        seen.add(id(slots[name]))


def _expect_fit(
    model: nn.Module, slots: Mapping[str, Tensor], manifest: Manifest, *, any_dtype: bool
) -> None:
    """Make sure that the model has the names, shapes and ties of the file before any tensor is read."""
    for name in sorted(slots.keys() ^ (manifest.tensors.keys() | manifest.tied.keys())):
        lacking = "file" if name in slots else "model"
        raise CheckpointError(
            f"{name}: the {lacking} lacks it; file and model are of different architectures"
        )
    for name, entry in manifest.tensors.items():
        slot = slots[name]
        if tuple(slot.shape) != entry.shape or not (any_dtype or slot.dtype is entry.torch_dtype):
            raise CheckpointError(
                f"{name}: the model expects {slot.dtype} {tuple(slot.shape)}, "
                f"the file holds {entry.dtype} {entry.shape}"
            )
    for alias, name in manifest.tied.items():
        if slots[alias].shape != slots[name].shape:
            raise CheckpointError(f"{alias}: the model does not tie it to {name}, which has another shape")
    if not any_dtype and stored(model)[1] != manifest.tied:
        raise CheckpointError(
            f"the given model does not tie the tensors that were tied: {dict(manifest.tied)}"
        )
