"""Pruning checkpoints larger than memory: file by file, tensor by tensor, with one exact threshold."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from sigprune.base.errors import BadInput, reading_damaged
from sigprune.base.progress import ProgressCallback, ignore
from sigprune.base.registry import JsonValue, MemberSpec
from sigprune.base.rng import generator
from sigprune.checkpoint.conversion import PROVED, base_name, origin
from sigprune.checkpoint.dense_reader import DenseCheckpoint, dense_checkpoint
from sigprune.checkpoint.external_topk import bits_of, kth_largest
from sigprune.checkpoint.packing import storable
from sigprune.checkpoint.sidecar_files import copy_sidecar_files
from sigprune.checkpoint.writers import DenseWriter, PackedWriter, Written, sizes, staging_dir
from sigprune.families.adapters import adapters
from sigprune.families.codecs import codecs
from sigprune.families.schedules import schedules
from sigprune.families.scores import scores
from sigprune.format.network_config import network_in
from sigprune.models.opening import describe
from sigprune.propagation.emptied import Emptied, EmptiedWeights, emptied_part
from sigprune.pruning.choose import Method, entries_kept
from sigprune.pruning.selector import Selector, check_compatibility, expect_sparsity, protect_, sites
from sigprune.values.layout import Shape

_MAGNITUDE = Method("magnitude")


def prune_files(
    ref: str | Path,
    folder: str | Path,
    *,
    sparsity: float,
    method: Method = _MAGNITUDE,
    codec: str | MemberSpec | ModuleType = "bitmask",
    include: tuple[str, ...] = ("*",),
    exclude: tuple[str, ...] = (),
    seed: int = 0,
    on_progress: ProgressCallback = ignore,
) -> Written:
    """Prune a checkpoint without holding its model: read it for the threshold, read it again and write.

    Entries with the largest scores are kept, exactly as many as the sparsity says, whatever the number of
    files: of all prunable weights together, or of each weight (row, group) as many as an allocation that
    looks at no scores gives it. By magnitude these are the masks of :func:`~sigprune.prune`, but that equal
    scores of all weights together are drawn otherwise. What is not kept becomes zero; that is all.

    Args:
        ref: dense safetensors of timm or transformers: a local folder, or ``user/repo[@revision]``.
        folder: a new or empty folder for ``config.json``, dense and packed files, none larger than the
            largest of the source.
        sparsity: fraction removed, in [0, 1).
        method: its score, ``magnitude`` or ``random``; its allocation and pattern: ``pooled`` and
            ``unstructured``, or any other allocation and ``unstructured``, ``per_row`` or ``n_m``; None takes
            what fits the score and pretrained weights.
        codec: how masked tensors are packed.
        include: shell patterns of weight names, roles or stages that pruning may touch; embeddings and heads
            only if named (the weights count as pretrained).
        exclude: the same of what it may not.
        seed: of random scores, and of the choice among equal ones.
        on_progress: called with (tensors done, tensors in total).

    Returns:
        What was written, and what stays behind. Cost: three readings (one more if equal scores have to be
        told apart); one for random scores, and where no threshold is common. Memory: at most one file of the
        source, one of the result and one tensor with its scores.

    Raises:
        BadInput: the checkpoint cannot be read tensor by tensor, a shell pattern matches nothing, or the
            method compares scores of different weights otherwise.
        BadScores: a weight is NaN or infinite.
        FolderExists: the folder is not empty.
        NoSpace: the disk is full.

    Warns:
        EmptiedWeights: nothing is kept of a weight, or of a block of one.
    """
    score = scores.choose(method.score).name
    source = _source(ref, sparsity, score)
    view = describe(source.model, include=include, exclude=exclude, weights_origin="pretrained")
    shapes = view.prunable_shapes()
    kept = entries_kept(sum(math.prod(shape) for shape in shapes.values()), sparsity)
    divided = {weight.name: weight.divided for weight in view.weights if weight.divided is not None}
    ranked = _Scores(source, shapes, score, seed, divided)
    allocation, pattern = method.choices("pretrained")
    select = Selector(sites(view), allocation, pattern, seed)
    select.expect_affordable(kept)
    choose = _chooser(select, ranked, shapes, kept)
    provenance: dict[str, JsonValue] = {
        **origin(ref, source.folder), "score": score, "sparsity": sparsity, "seed": seed,
        "include": list(include), "exclude": list(exclude), **_composition(select), "proved": PROVED,
    }  # fmt: skip
    max_shard_bytes, choice = source.largest, codecs.choose(codec)
    with staging_dir(folder) as staging:
        with reading_damaged(ref):
            left = copy_sidecar_files(ref, source.folder, staging, source.library, packed=True, same=False)
        packed = PackedWriter(
            staging,
            source.library,
            view.architecture,
            source.tied,
            provenance,
            choice,
            max_shard_bytes,
            network_in(staging),
        )
        dense = DenseWriter(staging, max_shard_bytes if adapters.get(source.library).SHARDED else None)
        done, found, weights = 0, Emptied(), {weight.name: weight for weight in view.weights}
        for file in source.files():
            for name, tensor in file:
                keep = choose(name, ranked.of(name, tensor)) if name in shapes else None
                found += Emptied() if keep is None else emptied_part(weights[name], keep)
                values = storable(tensor, keep)
                packed.add(name, values, keep)
                dense.add(name, values)
                on_progress(done := done + 1, len(source.shapes))
            packed.flush()
            dense.flush()
        dense.close()
        manifest = packed.close()
        layers = {
            name: (entry.masked.kept, entry.total)
            for name, entry in manifest.tensors.items()
            if entry.masked is not None
        }
        if str(found):
            warnings.warn(str(found), EmptiedWeights, stacklevel=2)
        return Written(sizes(staging), layers, left, tuple(map(str, found.findings())))


def _source(ref: str | Path, sparsity: float, score: str) -> DenseCheckpoint:
    """The checkpoint, once it is clear that it can be pruned like this."""
    expect_sparsity(sparsity)
    if score not in {"magnitude", "random"}:
        raise BadInput(
            f"score {score!r}: a checkpoint pruned file by file is never run; use magnitude or random"
        )
    with reading_damaged(ref):
        source = dense_checkpoint(ref)
    if source.missing:
        raise BadInput(
            f"{ref}: its files have no {min(source.missing)}: they name tensors otherwise than the model "
            f"(first {min(source.unexpected, default='none')}); open, prune and save it in memory instead"
        )
    return source


def _chooser(
    select: Selector, ranked: _Scores, shapes: dict[str, Shape], kept: int
) -> Callable[[str, Tensor], Tensor]:
    """Name and scores of a weight -> its mask."""
    allocation, pattern = select.allocation, select.pattern
    check_compatibility(pattern, allocation, schedules.choose("oneshot"))
    if (allocation.name, pattern.name) == ("pooled", "unstructured") and not any(allocation.options.values()):
        return kth_largest(ranked.of_all, kept, ranked.dtype, seed=select.seed).keep
    if allocation.name == "pooled":
        raise BadInput(
            "files are pruned one by one: scores of different weights are compared for unstructured masks "
            "without a floor alone; set allocation: uniform (or igq, erk, ...)"
        )
    if pattern.member.COUNTS == "whole units":
        raise BadInput(
            f"files are pruned one by one: the pattern {pattern.name!r} shares what its units leave over "
            "among all weights; use unstructured, per_row or n_m, or prune in memory"
        )
    draw = "0"  # prune() calls its first round so, and equal draws break ties alike
    counts = select.counts(shapes, kept, draw)

    def chosen(name: str, own: Tensor) -> Tensor:
        bits_of(name, own)  # patterns would sort a NaN somewhere; this refuses it
        return select.of_counts({name: own}, {name: counts[name]}, draw).keep[name]

    return chosen


def _composition(select: Selector) -> dict[str, JsonValue]:
    """What a manifest says of the allocation and the pattern, where they are not the usual ones."""
    return {
        key: {"name": chosen.name, **{option: _public(value) for option, value in chosen.options.items()}}
        for key, chosen in (("allocation", select.allocation), ("pattern", select.pattern))
        if chosen.name not in {"pooled", "unstructured"}
    }


def _public(value: JsonValue) -> JsonValue:
    """Of a path its last part: the rest is of this machine."""
    return base_name(value) if isinstance(value, str) else value


class _Scores:
    """Scores of a checkpoint's prunable weights, tensor by tensor, as often as they are asked for."""

    def __init__(
        self,
        source: DenseCheckpoint,
        shapes: dict[str, Shape],
        score: str,
        seed: int,
        divided: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._divided = divided
        self._source, self._shapes, self._score, self._seed = source, shapes, score, seed
        dtypes = source.dtypes(shapes)
        if "F8_E8M0" in dtypes:
            raise BadInput(
                "float8_e8m0fnu has no zero, so that nothing can be removed; exclude these weights"
            )
        wide = score == "random" or "F64" in dtypes
        self.dtype = torch.float64 if wide else torch.float32

    def of_all(self) -> Iterator[tuple[str, Tensor]]:
        """Name and scores of every prunable weight."""
        if self._score == "random":
            for name in self._shapes:
                yield name, self.of(name, torch.empty(0))
        else:
            for file in self._source.files():
                for name, tensor in file:
                    if name in self._shapes:
                        yield name, self.of(name, tensor)

    def of(self, name: str, tensor: Tensor) -> Tensor:
        """Scores of one weight; the best of what shares a norm is above all others, so that it stays."""
        scores = self._random(name) if self._score == "random" else self._size(tensor)
        if name in self._divided:
            protect_(scores, self._divided[name], None, generator(self._seed, "filters by shard", name))
        return scores

    def _size(self, tensor: Tensor) -> Tensor:
        """Magnitudes, found in the wide dtype: float8 would keep the sign of -0.0, int8 that of -128."""
        return tensor.abs().to(self.dtype) if tensor.is_complex() else tensor.to(self.dtype).abs()

    def _random(self, name: str) -> Tensor:
        draws = generator(self._seed, "random by shard", name)
        return torch.rand(self._shapes[name], generator=draws, dtype=torch.float64)
