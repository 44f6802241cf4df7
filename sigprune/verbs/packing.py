"""Packing: named tensors and a mask as the tensors of one file, and back with every bit accounted for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from sigprune.base.errors import BadInput, CheckpointError, UnknownName
from sigprune.base.family import Choice
from sigprune.base.tensors import Tensors
from sigprune.families.codecs import Codec, codecs
from sigprune.values.bits import as_integers
from sigprune.values.manifest import Entry, Manifest
from sigprune.values.mask import Mask


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


def zeroed(tensor: Tensor, keep: Tensor | None) -> Tensor:
    """The tensor on the CPU, contiguous, +0.0 where -0.0 was removed; a copy only where one is needed."""
    dense = tensor.detach().cpu().contiguous()
    if keep is None or not bool((as_integers(dense)[~keep] != 0).any()):
        return dense
    dense = dense.clone()
    as_integers(dense)[~keep] = 0
    return dense


def pack(tensors: Tensors, mask: Mask, codec: Choice[Codec]) -> tuple[Tensors, dict[str, Entry]]:
    """The file's tensors, and what the manifest says about them.

    Args:
        tensors: on the CPU, contiguous, removed entries +0.0.
        mask: over some of them.
        codec: how those are packed; the others are stored as they are.

    Raises:
        BadInput: two tensors would have one name in the file.
    """
    packed: Tensors = {}
    entries: dict[str, Entry] = {}
    for name, tensor in tensors.items():
        keep = mask.keep.get(name)
        parts = {"": tensor} if keep is None else codec.member.encode(tensor, keep, **codec.options)
        for suffix, part in parts.items():
            if name + suffix in packed or (suffix and name + suffix in tensors):
                raise BadInput(f"{name + suffix}: two tensors would have this name in the packed file")
            packed[name + suffix] = part
        dtype = str(tensor.dtype).removeprefix("torch.")
        kept = None if keep is None else int(keep.sum())
        entries[name] = Entry(tuple(tensor.shape), dtype, fingerprint(tensor), kept)
    return packed, entries


def unpack(manifest: Manifest, names: Collection[str], read: Callable[[str], Tensor]) -> tuple[Tensors, Mask]:
    """The dense tensors and the mask, checked against the manifest.

    Args:
        manifest: what should be there.
        names: of the tensors that are there.
        read: gives one of them.

    Raises:
        CheckpointError: names the tensor that is missing, stray, or not what the manifest says.
    """
    codec, suffixes = _codec(manifest.codec)
    parts = {name: suffixes if e.kept is not None else ("",) for name, e in manifest.tensors.items()}
    expected = {name + suffix for name, own in parts.items() for suffix in own}
    for name in sorted(expected ^ set(names)):
        raise CheckpointError(
            f"{name}: {'missing from the file' if name in expected else 'not in the manifest'}"
        )
    tensors: Tensors = {}
    keep: Tensors = {}
    for name, entry in manifest.tensors.items():
        found = {suffix: read(name + suffix) for suffix in parts[name]}
        try:
            if entry.kept is None:
                # A copy: the file's own memory is mapped, and would change with the file.
                tensors[name] = found[""].clone()
            else:
                tensors[name], keep[name] = codec.decode(found, entry.shape, entry.torch_dtype)
        except CheckpointError as error:
            raise CheckpointError(f"{name}: {error}") from error
        _compare(name, entry, tensors[name], keep.get(name))
    mask = Mask(keep)
    if mask.digest() != manifest.mask_digest:
        raise CheckpointError(f"mask: expected digest {manifest.mask_digest}, got {mask.digest()}")
    return tensors, mask


def fingerprint(tensor: Tensor) -> str:
    """SHA-256 of the bytes of a contiguous CPU tensor; no copy."""
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def _codec(name: str) -> tuple[Codec, tuple[str, ...]]:
    try:
        return codecs.get(name), tuple(codecs.read(name).facts["SUFFIXES"].split())
    except UnknownName as error:
        raise CheckpointError(
            f"{error}; install the package that brings this codec, or upgrade sigprune"
        ) from error


def _compare(name: str, entry: Entry, tensor: Tensor, keep: Tensor | None) -> None:
    if tuple(tensor.shape) != entry.shape or tensor.dtype is not entry.torch_dtype:
        raise CheckpointError(
            f"{name}: the manifest says {entry.dtype} {entry.shape}, "
            f"the file holds {tensor.dtype} {tuple(tensor.shape)}"
        )
    kept = None if keep is None else int(keep.sum())
    if kept != entry.kept:
        raise CheckpointError(f"{name}: the manifest says {entry.kept} kept entries, the file holds {kept}")
    if fingerprint(tensor) != entry.digest:
        raise CheckpointError(
            f"{name}: its bytes do not have the digest in the manifest; the file is damaged"
        )


def _kind(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return "a tensor on the meta device" if value.is_meta else f"a tensor of layout {value.layout}"
