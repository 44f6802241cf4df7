"""Reading sparse checkpoints: a model or a mask, only when every bit is accounted for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sigprune.base.canonical_json import read_object
from sigprune.base.errors import BadInput, CheckpointError, TooLarge, in_checkpoint, reading_damaged
from sigprune.base.tensors import Tensors
from sigprune.checkpoint.locate import packed_folder
from sigprune.checkpoint.packing import unpack
from sigprune.checkpoint.rebuild import in_dtype, rebuilt
from sigprune.checkpoint.safetensors_io import reading
from sigprune.checkpoint.save import stored
from sigprune.families.adapters import adapters
from sigprune.format.index import read_manifests
from sigprune.format.manifest import Manifest
from sigprune.format.names import CONFIG, PACKED, PACKED_INDEX
from sigprune.format.network_config import expect_counts, expect_network
from sigprune.models.bounded_build import bounded_modules
from sigprune.values.mask import Mask
from sigprune.values.origin import origin_in, remember_origin_

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
    targets = model.state_dict(keep_vars=True)
    with in_checkpoint(place):
        _expect_fit(model, targets, manifest, any_dtype=into is None)
    if into is None:
        _untie_(model, targets, manifest)
    keep: Tensors = {}
    waiting: Tensors = {}
    for name, tensor, own in unpacked(folder, shards, verify=verify):
        if own is not None:
            keep[name] = own
        if into is None:
            targets[name].data = tensor
        else:
            waiting[name] = tensor
    with torch.no_grad():
        for name, tensor in waiting.items():
            targets[name].copy_(tensor)
    # One Parameter object under all its names keeps tied tensors tied.
    tied = {
        alias: targets[name] for alias, name in manifest.tied.items() if targets[alias] is not targets[name]
    }
    model.load_state_dict(tied, strict=False, assign=True)
    remember_origin_(model, origin_in(manifest.provenance))
    return SparseCheckpoint(
        model.eval(), Mask({name: keep[name] for name in targets if name in keep}), manifest
    )


def unpacked(
    folder: Path, shards: Mapping[str, Manifest], *, verify: bool = False
) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Name, dense tensor and mask of every tensor of a packed model, one at a time.

    Args:
        folder: where the files are.
        shards: what :func:`~sigprune.format.index.read_manifests` found there.
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
    with bounded_modules(names, path):
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
    with bounded_modules(len(manifest.tensors) + len(manifest.tied), folder / CONFIG):
        model = rebuilt(folder, manifest.library, manifest.architecture)
    own = dict(model.named_parameters())
    dtypes = {
        e.torch_dtype
        for name, e in manifest.tensors.items()
        if name in own and e.torch_dtype.is_floating_point
    }
    return in_dtype(model, dtypes)


def _untie_(model: nn.Module, targets: dict[str, Tensor], manifest: Manifest) -> None:
    """Give tensors that were stored apart memory of their own, though the configuration ties them."""
    seen: set[int] = set()
    for name in [name for name in targets if name in manifest.tensors]:
        if id(targets[name]) in seen:
            path, _, own = name.rpartition(".")
            fresh = torch.empty_like(targets[name])
            if isinstance(targets[name], nn.Parameter):
                fresh = nn.Parameter(fresh, requires_grad=targets[name].requires_grad)
            setattr(model.get_submodule(path), own, fresh)
            targets[name] = fresh
        seen.add(id(targets[name]))


def _expect_fit(
    model: nn.Module, targets: Mapping[str, Tensor], manifest: Manifest, *, any_dtype: bool
) -> None:
    """Make sure that the model has the names, shapes and ties of the file before any tensor is read."""
    for name in sorted(targets.keys() ^ (manifest.tensors.keys() | manifest.tied.keys())):
        incomplete = "file" if name in targets else "model"
        raise CheckpointError(
            f"{name}: the {incomplete} lacks it; file and model are of different architectures"
        )
    for name, entry in manifest.tensors.items():
        target = targets[name]
        if tuple(target.shape) != entry.shape or not (any_dtype or target.dtype is entry.torch_dtype):
            raise CheckpointError(
                f"{name}: the model expects {target.dtype} {tuple(target.shape)}, "
                f"the file holds {entry.dtype} {entry.shape}"
            )
    for alias, name in manifest.tied.items():
        if targets[alias].shape != targets[name].shape:
            raise CheckpointError(f"{alias}: the model does not tie it to {name}, which has another shape")
    if not any_dtype and stored(model)[1] != manifest.tied:
        raise CheckpointError(
            f"the given model does not tie the tensors that were tied: {dict(manifest.tied)}"
        )


def load_mask(ref: str | Path) -> Mask:
    """The mask of a sparse checkpoint; its model is not built.

    Args:
        ref: a local folder that :func:`sigprune.save` wrote, or such a repository: ``user/repo[@revision]``,
            of which the packed file alone is fetched.

    Returns:
        Mask in the order of the file. Cost: every tensor is read and checked once.

    Raises:
        CheckpointError: a file is missing, damaged or not what it says.
        BadInput: neither a folder nor a repository that can be reached.
    """
    folder = packed_folder(ref, config=False)
    masks = ((name, keep) for name, _, keep in unpacked(folder, read_manifests(folder)))
    return Mask({name: keep for name, keep in masks if keep is not None})
