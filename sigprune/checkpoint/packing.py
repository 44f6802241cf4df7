"""Packing: a tensor and its mask as the parts that a file holds, and back with every bit accounted for."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from sigprune.base.bits import as_integers, zeroed
from sigprune.base.errors import BadInput, CheckpointError, UnknownName, in_checkpoint
from sigprune.base.registry import BoundMember
from sigprune.base.tensors import Tensors
from sigprune.families.codecs import Codec, codecs
from sigprune.format.manifest import DTYPES, Entry, Masked
from sigprune.values.mask import fingerprint_of_bits


class Parts(Protocol):
    """Where stored parts come from: an open file."""

    def get_tensor(self, name: str) -> Tensor:
        """The part of this name."""


def storable(tensor: Tensor, keep: Tensor | None) -> Tensor:
    """The tensor on the CPU, contiguous, +0.0 where -0.0 was removed; a copy only where one is needed."""
    dense = tensor.detach().cpu().contiguous()
    if keep is None:
        return dense
    removed, bits = keep.logical_not(), as_integers(dense)
    if not bool((bits != 0).logical_and_(removed).any()):
        return dense
    return zeroed(dense, keep)


def pack(name: str, tensor: Tensor, keep: Tensor | None, codec: BoundMember[Codec]) -> tuple[Tensors, Entry]:
    """The parts of one tensor, by suffix, and what the manifest says about it.

    The main part of a masked tensor is stored under the tensor's own name with one dimension more than the
    tensor has, (1, ..., 1, n), so that no loader can mistake it for the tensor.

    Args:
        name: for messages.
        tensor: on the CPU, contiguous, removed entries +0.0.
        keep: its mask; None stores the tensor as it is.
        codec: how a masked tensor is packed.

    Raises:
        BadInput: the codec cannot pack this tensor under this mask.
    """
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise BadInput(
            f"{name}: {dtype} cannot be stored as safetensors; convert it to one of {', '.join(DTYPES)}"
        )
    entry = Entry(tuple(tensor.shape), dtype, fingerprint(tensor))
    if keep is None:
        return {"": tensor}, entry
    try:
        parts = codec.member.encode(tensor, keep, **codec.options)
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from error
    digests = {suffix: fingerprint(part) for suffix, part in parts.items()}
    masked = Masked(int(keep.sum()), codec.name, fingerprint_of_bits(keep), digests)
    return parts | {"": parts[""].reshape((1,) * tensor.dim() + (-1,))}, replace(entry, masked=masked)


def unpack(name: str, entry: Entry, file: Parts, *, verify: bool = False) -> tuple[Tensor, Tensor | None]:
    """The dense tensor, on the CPU and in memory of its own, and its mask.

    The bytes of every part are checked before they are decoded.

    Args:
        name: the tensor's.
        entry: what the manifest says about it.
        file: holds its parts under its name and their suffixes, each in memory of its own.
        verify: check the digests of the dense tensor and of the mask too.

    Raises:
        CheckpointError: something is not what the manifest says; names the tensor.
    """
    with in_checkpoint(name):
        if entry.masked is None:
            dense, keep = file.get_tensor(name).detach().cpu().contiguous(), None
            _expect_form(entry, dense)
            _expect_digest("its bytes", dense, entry.digest)
        else:
            dense, keep = _decoded(name, entry, entry.masked, file)
            _expect_form(entry, dense)
            if verify:
                _expect_digest("its dense values", dense, entry.digest)
                if fingerprint_of_bits(keep) != entry.masked.bits:
                    raise CheckpointError("its mask does not have the digest in the manifest")
    return dense, keep


def fingerprint(tensor: Tensor) -> str:
    """SHA-256 of the bytes of a contiguous CPU tensor; no copy."""
    return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def _decoded(name: str, entry: Entry, masked: Masked, file: Parts) -> tuple[Tensor, Tensor]:
    codec, own = _codec(masked.codec)
    if masked.parts.keys() != own:
        raise CheckpointError(
            f"codec {masked.codec} has the parts {sorted(own)}, the manifest names {sorted(masked.parts)}"
        )
    parts: dict[str, Tensor] = {}
    for suffix, digest in masked.parts.items():
        part = file.get_tensor(name + suffix).detach().cpu()
        lead = (1,) * len(entry.shape) if suffix == "" else ()
        if part.dtype is not torch.uint8 or part.shape != (*lead, part.numel()):
            raise CheckpointError(
                f"part {suffix!r}: expected bytes of the shape ({'1, ' * len(lead)}n), "
                f"got {part.dtype} {tuple(part.shape)}"
            )
        parts[suffix] = part.reshape(-1)
        _expect_digest(f"the bytes of part {suffix!r}", parts[suffix], digest)
    try:
        return codec.decode(parts, entry.shape, entry.torch_dtype, masked.kept)
    except MemoryError as error:
        raise CheckpointError(f"no memory for what the file says that it holds: {error}") from error


def _codec(name: str) -> tuple[Codec, frozenset[str]]:
    try:
        return codecs.get(name), frozenset(("", *codecs.read(name).facts["SUFFIXES"].split()))
    except UnknownName as error:
        raise CheckpointError(
            f"{error}; install the package that brings this codec, or upgrade sigprune"
        ) from error


def _expect_form(entry: Entry, tensor: Tensor) -> None:
    if tuple(tensor.shape) != entry.shape or tensor.dtype is not entry.torch_dtype:
        raise CheckpointError(
            f"the manifest says {entry.dtype} {entry.shape}, "
            f"the file holds {tensor.dtype} {tuple(tensor.shape)}"
        )


def _expect_digest(what: str, tensor: Tensor, digest: str) -> None:
    if fingerprint(tensor) != digest:
        raise CheckpointError(f"{what} do not have the digest in the manifest; the file is damaged")
