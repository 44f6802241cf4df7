"""Dense checkpoints tensor by tensor: for what would not fit in memory."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sigprune.base.canonical_json import read_object
from sigprune.base.errors import BadInput
from sigprune.base.rng import global_stream
from sigprune.checkpoint.packing import fingerprint
from sigprune.checkpoint.safetensors_io import Reader, dense_parts, reading
from sigprune.families.adapters import adapters
from sigprune.format.names import CONFIG
from sigprune.format.network_config import expect_counts
from sigprune.models.bounded_build import bounded_modules
from sigprune.models.opening import library_of, parse_ref
from sigprune.sources.files import folder_of, weights_of
from sigprune.sources.reference import ModelRef
from sigprune.values.layout import Shape

_COMPUTED = frozenset({
    "attn_mask",
    "inv_freq",
    "original_inv_freq",
    "position_ids",
    "relative_position_index",
    "token_type_ids",
})
"""Last parts of the names of buffers that are computed: none of them was ever trained."""


@dataclass(frozen=True, eq=False)
class DenseCheckpoint:
    """Weights on disk, and the model that they belong to, without values.

    Attributes:
        folder: where ``config.json`` is; of a repository the snapshot of one commit.
        library: the adapter that knows it.
        model: on the meta device.
        weights: a safetensors file, or the index of several.
        shapes: name -> shape of every tensor of the state dict; tied copies once.
        tied: name of a tied copy -> the name that stands for it.
        renamed: name in the files -> name in the state dict, where they differ: a tied copy's other name.
        unexpected: names in the files that the model does not have: buffers that it makes itself
            (``position_ids`` of older files); others only where it lacks some.
        missing: names of the model that the files do not have: they name tensors otherwise (experts apart
            that the model has in one tensor, say), so that they cannot be taken one by one.
    """

    folder: Path
    library: str
    model: nn.Module
    weights: Path
    shapes: Mapping[str, Shape]
    tied: Mapping[str, str]
    renamed: Mapping[str, str]
    unexpected: frozenset[str]
    missing: frozenset[str]

    def files(self) -> Iterator[Iterator[tuple[str, Tensor]]]:
        """Name and tensor, file by file, each read when it is asked for; what the model lacks is left out.

        Raises:
            CheckpointError: a file is damaged.
        """
        seen: set[str] = set()
        for path in dense_parts(self.weights):
            with reading(path) as file:
                yield self._of(file, seen)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All of them."""
        for file in self.files():
            yield from file

    def _of(self, file: Reader, seen: set[str]) -> Iterator[tuple[str, Tensor]]:
        for own in file.offset_keys():
            name = self.renamed.get(own, own)
            if own not in self.unexpected and name not in seen:
                seen.add(name)
                yield name, file.get_tensor(own)

    def dtypes(self, names: Container[str]) -> set[str]:
        """The dtypes of the named tensors, as safetensors names them; from the headers of the files."""
        found: set[str] = set()
        for path in dense_parts(self.weights):
            with reading(path) as file:
                own = [name for name in file.offset_keys() if self.renamed.get(name, name) in names]
                found |= {file.get_slice(name).get_dtype() for name in own}
        return found

    @property
    def largest(self) -> int:
        """Bytes of the largest file."""
        return max(path.stat().st_size for path in dense_parts(self.weights))


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A model without values, and what its state dict has to hold.

    Attributes:
        library: the adapter that knows it.
        model: on the meta device.
        shapes: name -> shape of every tensor of the state dict; tied copies once.
        tied: name of a tied copy -> the name that stands for it.
    """

    library: str
    model: nn.Module
    shapes: Mapping[str, Shape]
    tied: Mapping[str, str]

    def made(self, names: frozenset[str]) -> frozenset[str]:
        """Those of the names that the model makes itself: see :func:`_made_by_the_model`."""
        return _made_by_the_model(self.model, names)


def skeleton_of(reference: ModelRef) -> Skeleton:
    """The model that a reference names, without values.

    Raises:
        BadInput: there is no such model, or its configuration cannot be read.
    """
    library = library_of(reference)
    with global_stream(0, "skeleton", reference.source), torch.device("meta"):
        model = adapters.get(library).build(reference.source, {})
    return Skeleton(library, model, *_skeleton(model))


def dense_checkpoint(ref: str | Path, *, revision: str | None = None) -> DenseCheckpoint:
    """A checkpoint of timm or transformers whose tensors can be read one by one; none is read yet.

    Args:
        ref: a local folder, or a repository ``user/repo[@revision]``, which is fetched; safetensors only.
        revision: branch, tag or commit of a repository.

    Raises:
        BadInput: there are no such weights, or some have another shape than the model's; the model would
            lose some: it does not have them, or ties them to others than they equal.
    """
    reference = parse_ref(str(ref), revision)
    folder = folder_of(reference.source)
    library = library_of(reference)
    weights = weights_of(reference.source, folder, sharded=adapters.get(library).SHARDED)
    found = _shapes_in(weights)
    config = folder / CONFIG
    expect_counts(read_object(config), len(found), config)
    with bounded_modules(len(found), config):
        skeleton = skeleton_of(reference)
    model, shapes, tied = skeleton.model, skeleton.shapes, skeleton.tied
    renamed = {alias: name for alias, name in tied.items() if alias in found}
    unexpected = frozenset(found) - shapes.keys() - renamed.keys()
    have = {renamed.get(name, name): shape for name, shape in found.items() if name not in unexpected}
    for name, shape in have.items():
        if shape != shapes[name]:
            raise BadInput(
                f"{ref}: {name} has the shape {shape} in its files, {shapes[name]} in the model; they are of "
                "different architectures"
            )
    missing = frozenset(shapes) - have.keys()
    if not missing:
        _expect_nothing_lost(str(ref), weights, unexpected - skeleton.made(unexpected), renamed)
    return DenseCheckpoint(folder, library, model, weights, shapes, tied, renamed, unexpected, missing)


def _expect_nothing_lost(
    ref: str, weights: Path, unexpected: frozenset[str], renamed: Mapping[str, str]
) -> None:
    """Make sure that the model has a place for every tensor, and that copies of one tensor are copies."""
    for name in sorted(unexpected):
        raise BadInput(
            f"{ref}: its files hold {name}, which the model of its config.json lacks: leaving it out "
            "would lose it; open the model with its library and save it again without it"
        )
    places: dict[str, list[tuple[Path, str]]] = {}
    for path in dense_parts(weights):
        with reading(path) as file:
            for own in file.offset_keys():
                places.setdefault(renamed.get(own, own), []).append((path, own))
    for (first, name), *others in places.values():
        for path, other in others:
            if _content(path, other) != _content(first, name):
                raise BadInput(
                    f"{ref}: {name} ({first.name}) and {other} ({path.name}) differ, and are one tensor in "
                    "the model of its config.json; if they are not tied, say so there "
                    "(tie_word_embeddings: false)"
                )


def _made_by_the_model(model: nn.Module, unexpected: frozenset[str]) -> frozenset[str]:
    """Those of the names that are positions, masks or frequencies, which libraries no longer save.

    The model makes such buffers itself, maybe elsewhere than it once did (``layers.0.self_attn.rotary_emb.
    inv_freq``, today ``rotary_emb.inv_freq``), and takes no notice of them in files.
    """
    saved = model.state_dict()
    made = {_last(name) for name, _ in model.named_buffers() if name not in saved} & _COMPUTED
    return frozenset(name for name in unexpected if _last(name) in made)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _content(path: Path, name: str) -> tuple[torch.dtype, str]:
    with reading(path) as file:
        tensor = file.get_tensor(name)
        return tensor.dtype, fingerprint(tensor)


def _skeleton(model: nn.Module) -> tuple[dict[str, Shape], dict[str, str]]:
    """Shapes by name, and tied names, of a model without values: tied tensors are one object."""
    first: dict[int, str] = {}
    shapes: dict[str, Shape] = {}
    tied: dict[str, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        known = first.setdefault(id(tensor), name)
        if known == name:
            shapes[name] = tuple(tensor.shape)
        else:
            tied[name] = known
    return shapes, tied


def _shapes_in(weights: Path) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for path in dense_parts(weights):
        with reading(path) as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.offset_keys()}
    return shapes
