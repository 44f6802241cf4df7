"""State dicts in pickles (``.pth``, ``.pt``, ``.bin``), read on the user's word, and proved against a model.

Only tensors are read (``torch.load(weights_only=True)``): a pickle that holds anything else is refused.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from sigprune.base.errors import BadInput, one_line
from sigprune.base.tensors import Tensors
from sigprune.checkpoint.dense_reader import Skeleton
from sigprune.checkpoint.packing import fingerprint

_INSIDE = ("state_dict", "model_state_dict", "model")
"""Keys under which trainers keep the state dict, beside the optimizer's and others."""

_PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and ``torch.compile`` put before every name."""


@dataclass(frozen=True)
class StateDictFile:
    """A pickle of tensors that the user wants to be read.

    Attributes:
        path: the file.
        by_order: its tensors follow each other as the model's do, under other names: they are taken one by
            one if each has the shape and the last part of the name (``weight``, ``running_mean``) that the
            model's has.
    """

    path: Path
    by_order: bool = False


@dataclass(frozen=True, eq=False)
class StateDict:
    """Named tensors from a pickle.

    Attributes:
        tensors: on the CPU; mapped from the file where its format allows it.
        notes: what was done to get them, one line each.
    """

    tensors: Tensors
    notes: tuple[str, ...] = ()


def read_state_dict(path: Path) -> StateDict:
    """The tensors of a state dict, plain or under a key that trainers use.

    Raises:
        BadInput: the file is missing or damaged, holds other objects than tensors, or no state dict.
    """
    if not path.is_file():
        raise BadInput(f"{path}: expected a file with a state dict (.pth, .pt, .bin); there is none")
    try:
        mapped = zipfile.is_zipfile(path)  # torch maps no file of its format before 1.6
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # whatever unpickling and zip raise for damaged files
        raise BadInput(
            f"{path}: cannot read it as a state dict: {one_line(error)}; only tensors are read, never other "
            "objects: save model.state_dict() alone"
        ) from error
    key = next((key for key in _INSIDE if isinstance(content, Mapping) and _holds(content, key)), None)
    if key is None:
        return StateDict(_tensors(content, str(path)))
    others = sorted(str(other) for other in content if other != key)
    note = f"{path.name}: tensors are those under {key!r}"
    note += f"; left out: {', '.join(others)}" if others else ""
    return StateDict(_tensors(content[key], f"{path}: {key}"), (note,))


def fitted(found: StateDict, skeleton: Skeleton, path: Path, *, by_order: bool) -> StateDict:
    """The tensors under the model's names, tied copies once.

    Raises:
        BadInput: the model lacks a name, the file lacks one, shapes differ, or copies of one tensor do.
    """
    named = _by_order(found, skeleton, path) if by_order else _by_name(found, skeleton)
    tensors: Tensors = {}
    extra = frozenset(named.tensors) - skeleton.shapes.keys() - skeleton.tied.keys()
    unknown = sorted(extra - skeleton.made(extra))
    missing = sorted(
        skeleton.shapes.keys()
        - named.tensors.keys()
        - {name for alias, name in skeleton.tied.items() if alias in named.tensors}
    )
    if unknown or missing:
        raise BadInput(
            f"{path}: its names are not those of the model: {len(missing)} are missing (first "
            f"{min(missing, default='none')}), {len(unknown)} are not the model's (first "
            f"{min(unknown, default='none')}); name the configuration of its model, or, if its tensors "
            "follow each other as the model's do, add --by-order (StateDictFile(path, by_order=True))"
        )
    for own, tensor in named.tensors.items():
        name = skeleton.tied.get(own, own)
        if name not in skeleton.shapes:
            continue  # the model makes it itself
        if tuple(tensor.shape) != skeleton.shapes[name]:
            raise BadInput(
                f"{path}: {own} has the shape {tuple(tensor.shape)}, {skeleton.shapes[name]} in the model; "
                "they are of different architectures"
            )
        if name in tensors and fingerprint(tensor) != fingerprint(tensors[name]):
            raise BadInput(f"{path}: {own} and {name} differ, and are one tensor in the model")
        tensors.setdefault(name, tensor)
    return replace(named, tensors={name: tensors[name] for name in skeleton.shapes})


def _holds(content: Mapping[object, object], key: str) -> bool:
    inner = content.get(key)
    return isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values())


def _tensors(content: object, place: str) -> Tensors:
    if not isinstance(content, Mapping) or not content:
        raise BadInput(f"{place}: expected tensors by name, got {type(content).__name__} without any")
    for name, value in content.items():
        plain = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized
        if not isinstance(name, str) or not plain or cast(Tensor, value).is_meta:
            raise BadInput(f"{place}: {name}: expected a dense tensor, got {type(value).__name__}")
    return {str(name): cast(Tensor, value).detach() for name, value in content.items()}


def _by_name(found: StateDict, skeleton: Skeleton) -> StateDict:
    """Without what wrappers put before all names, unless the model has such names."""
    tensors, notes = found.tensors, list(found.notes)
    known = skeleton.shapes.keys() | skeleton.tied.keys()
    while not tensors.keys() & known:
        prefix = next((one for one in _PREFIXES if all(name.startswith(one) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        notes.append(f"the prefix {prefix!r} of all names is left out")
    return StateDict(tensors, tuple(notes))


def _by_order(found: StateDict, skeleton: Skeleton, path: Path) -> StateDict:
    theirs, ours = list(found.tensors.items()), list(skeleton.shapes.items())
    if len(theirs) != len(ours):
        raise BadInput(f"{path}: expected {len(ours)} tensors, as the model has, got {len(theirs)}")
    for (own, tensor), (name, shape) in zip(theirs, ours, strict=True):
        if tuple(tensor.shape) != shape or _last(own) != _last(name):
            raise BadInput(
                f"{path}: by order {own} {tuple(tensor.shape)} would become {name} {shape}: they are of "
                "different architectures, or in another order"
            )
    changed = [(own, name) for own, name in zip(found.tensors, skeleton.shapes, strict=True) if own != name]
    note = f"{len(changed)} of {len(ours)} tensors are renamed by their order"
    note += f", first {changed[0][0]} to {changed[0][1]}" if changed else ""
    renamed = {name: tensor for (name, _), (_, tensor) in zip(ours, theirs, strict=True)}
    return StateDict(renamed, (*found.notes, note))


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def each(tensors: Tensors) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor; each is let go of before the next, where the file is mapped."""
    for name in list(tensors):
        yield name, tensors.pop(name)
