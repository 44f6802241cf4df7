"""Saving sparse checkpoints: whole or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor, nn

from sigprune.base.atomic_dir import new_folder
from sigprune.base.errors import BadInput
from sigprune.base.registry import JsonValue, MemberSpec
from sigprune.base.renamed import old_keywords
from sigprune.base.tensors import Tensors
from sigprune.checkpoint.packing import storable
from sigprune.checkpoint.rebuild import prove_config
from sigprune.checkpoint.safetensors_io import MAX_SHARD_BYTES, file_facts
from sigprune.checkpoint.writers import DenseWriter, PackedWriter
from sigprune.families.adapters import adapters
from sigprune.families.codecs import codecs
from sigprune.format.network_config import network_in
from sigprune.propagation.emptied import EmptiedWeights, emptied
from sigprune.values.mask import Mask
from sigprune.values.preprocessing import Preprocessing
from sigprune.values.view import View, expect_view


class SavesItself(Protocol):
    """A tokenizer or processor of transformers."""

    def save_pretrained(self, save_directory: Path) -> object:
        """Write its files into the folder."""


@old_keywords(most="max_shard_bytes")
def save(
    folder: str | Path,
    view: View,
    mask: Mask,
    *,
    codec: str | MemberSpec | ModuleType = "bitmask",
    extra: Mapping[str, JsonValue] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    preprocessing: Preprocessing | None = None,
    processor: SavesItself | None = None,
    tokenizer: SavesItself | None = None,
) -> dict[str, dict[str, JsonValue]]:
    """Write a masked model as a folder that plain timm or transformers load, and packed for sigprune.

    ``config.json`` is the library's own. ``model.safetensors`` holds every tensor dense, removed entries
    +0.0, under its state-dict name, tied copies once. ``model.sparse.safetensors`` holds masked tensors as
    the codec packs them, all others as they are, and the manifest (docs/format.md). Models larger than
    ``max_shard_bytes`` come as numbered files with an index, except the dense file of timm, which reads one
    file only.
    Equal models give equal bytes.

    Args:
        folder: a new or empty folder; it appears when everything is written, and not at all on any failure.
        view: the model; its values are read, not changed.
        mask: what was removed; tensors that it does not name are stored dense.
        codec: how masked tensors are packed.
        extra: plain values for the manifest's provenance: recipe, digest of the recipe, versions.
        max_shard_bytes: bytes of tensors in one file.
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
        provenance: dict[str, JsonValue] = dict(extra or {})
        if view.weights_origin == "pretrained":
            provenance.setdefault("weights_origin", "pretrained")
        provenance |= _findings(view, mask)
        packed = PackedWriter(
            staging, view.library, view.architecture, tied, provenance, codecs.choose(codec), max_shard_bytes,
            network_in(staging),
        )  # fmt: skip
        dense = DenseWriter(staging, max_shard_bytes if adapter.SHARDED else None)
        for name, tensor in tensors.items():
            keep = mask.keep.get(name)
            values = storable(tensor, keep)
            packed.add(name, values, keep)
            dense.add(name, values)
        packed.close()
        dense.close()
        return {path.name: file_facts(path) for path in sorted(staging.iterdir())}


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


def _findings(view: View, mask: Mask) -> dict[str, JsonValue]:
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
