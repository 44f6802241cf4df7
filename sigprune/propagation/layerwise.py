"""Layer-wise dynamical isometry: the singular values of every weight's own linear map."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor

from sigprune.base.errors import BadInput, UnknownName
from sigprune.base.progress import ProgressCallback, ignore
from sigprune.base.registry import BoundMember, MemberSpec
from sigprune.base.renamed import old_keywords
from sigprune.base.rng import generator
from sigprune.base.tensors import Tensors
from sigprune.families.spectra import Method, spectra
from sigprune.propagation.layer_inputs import Given, convolution_inputs
from sigprune.values.batch import BatchLike
from sigprune.values.convolution import Convolution
from sigprune.values.convolution_operator import circular_values, convolution_operator
from sigprune.values.layout import Shape
from sigprune.values.mask import Mask
from sigprune.values.orthogonality import Isometry, spectrum_of
from sigprune.values.view import View, expect_view
from sigprune.values.weight import Weight

OperatorOf = Literal["none", "circular", "padded"]

MAX_SIDE = 8192
"""Rows or columns (the fewer) over which a matrix is not decomposed: minutes of time, GiB of memory."""


@dataclass(frozen=True)
class LayerIsometry:
    """One weight.

    Attributes:
        name: its canonical state-dict key.
        role: what it does in the network.
        stage: the part of the network it belongs to.
        shape: its stored shape.
        blocks: number of its independent matrices.
        gain: the singular value they are compared with.
        dead_outputs: rows of the blocks that are zero: outputs that get nothing.
        dead_inputs: inputs (channels, of a convolution) of the blocks that are not used.
        matrix: of the blocks as matrices (out, in · prod(kernel)).
        operator: of the convolution as a map of images, if it was measured.
        size: of the convolution's input.
        note: why something was not measured; empty if all was.
    """

    name: str
    role: str
    stage: str
    shape: Shape
    blocks: int
    gain: float
    dead_outputs: int
    dead_inputs: int
    matrix: Isometry | None = None
    operator: Isometry | None = None
    size: Shape | None = None
    note: str = ""

    def to_dict(self) -> dict[str, object]:
        """The fields as plain values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class _How:
    """How operators are measured."""

    operator: OperatorOf
    method: BoundMember[Method]
    seed: int


@old_keywords(report="on_progress")
def layer_isometry(
    view: View,
    batch: BatchLike | None = None,
    *,
    mask: Mask | None = None,
    gains: float | Mapping[str, float] = 1.0,
    operator: OperatorOf = "circular",
    method: str | MemberSpec | ModuleType = "exact",
    seed: int = 0,
    on_progress: ProgressCallback = ignore,
) -> tuple[LayerIsometry, ...]:
    """Singular values of every weight as the forward pass uses it, compared with its gain.

    A weight's blocks (each of q, k, v; each convolution group; each expert) are measured as matrices. For a
    convolution these are the flattened kernels, whose rows may be orthonormal while the convolution itself
    is far from isometric; so the map of images is measured too. Only the linear map is looked at: derivatives
    of activations, norms and shortcuts are not part of it. Standardised and weight-normalised layers count
    with the values that they use. Embeddings are left out: they are looked up, not multiplied by.

    Cost: a float64 decomposition per block, seconds at 2,000 rows and up to half a minute at 4,096;
    ``circular`` adds a complex one for every second frequency of a convolution's output, and one forward
    pass. Memory: a block (or from 2,048 on its smaller Gram matrix) in float64; 1 GiB for frequencies.

    Args:
        view: the network.
        batch: what the network is given to find the size of every convolution's input, which its operator
            depends on; one example is enough. None: the view's own.
        mask: measure the weights with the removed entries at zero; the model itself is not changed.
        gains: the singular value to compare with, or one for each weight by name.
        operator: of convolutions: ``none``; ``circular``: all values in closed form, as if the padding were
            circular, stride and dilation as they are; ``padded``: with the padding really used.
        method: a member of the spectra family, for ``padded``.
        seed: for methods that draw probes.
        on_progress: called with (weights done, weights in total).

    Returns:
        One row per weight, in order of definition.

    Raises:
        BadInput: a gain that is missing or not positive, weights without values, or no example to run.
        UnknownName: there is no such method, or no such choice of operator.

    Source: Lee et al. 2020 (arXiv 1906.06307), Definition 1; the operator of a convolution: Sedghi, Gupta and
    Long 2019 (arXiv 1805.10408).

    Example:
        >>> from sigprune import describe, layer_isometry, reinit_
        >>> view = describe(torch.nn.Conv2d(4, 8, 3, padding=1))
        >>> _ = reinit_(view, "orthogonal")
        >>> (row,) = layer_isometry(view, torch.randn(1, 4, 8, 8))
        >>> row.matrix.epsilon < 1e-6, row.operator.epsilon > 0.5
        (True, True)
        >>> _ = reinit_(view, "delta_orthogonal")
        >>> layer_isometry(view, torch.randn(1, 4, 8, 8))[0].operator.epsilon < 1e-6
        True
    """
    expect_view(view)
    if operator not in get_args(OperatorOf):
        raise UnknownName("operator of convolutions", operator, get_args(OperatorOf))
    how = _How(operator, spectra.choose(method), seed)
    weights = [weight for weight in view.weights if weight.role != "embedding"]
    aims = _gains(weights, gains)
    params = view.params()
    if mask is not None:
        masked = {name: params[name].clone() for name in mask.keep if name in params}
        mask.apply_(masked)
        params |= masked
    given = {} if operator == "none" else _given(view, params, batch, weights)
    rows = []
    for weight in weights:
        row, blocks = _matrices(weight, params, aims[weight.name])
        if weight.name in given and not row.note:
            row = _with_operator(row, weight, blocks, given[weight.name], how)
        rows.append(row)
        on_progress(len(rows), len(weights))
    return tuple(rows)


def _gains(weights: Sequence[Weight], gains: float | Mapping[str, float]) -> dict[str, float]:
    found = {w.name: gains.get(w.name, math.nan) if isinstance(gains, Mapping) else gains for w in weights}
    for name, value in found.items():
        if not 0 < value < math.inf:
            raise BadInput(f"{name}: the gain is the singular value compared with: expected > 0, got {value}")
    return found


def _given(
    view: View, params: Tensors, batch: BatchLike | None, weights: Sequence[Weight]
) -> dict[str, Given]:
    if not any(weight.convolution for weight in weights):
        return {}
    example = view.example if batch is None else view.read(batch)
    if not example.inputs:
        raise BadInput(
            "the size of what convolutions are given is not known: pass a batch, or operator='none'"
        )
    return convolution_inputs(view.using("fresh") if view.batchnorm == "batch" else view, params, example)


def _matrices(weight: Weight, params: Tensors, gain: float) -> tuple[LayerIsometry, list[Tensor]]:
    """The row without an operator, and the blocks."""
    changed = weight.standardised is not None or weight.magnitude is not None
    used = weight.effective(params) if changed else params[weight.name].detach()
    blocks = list(weight.layout.blocks(used))
    row = LayerIsometry(
        name=weight.name,
        role=weight.role,
        stage=weight.stage,
        shape=weight.shape,
        blocks=len(blocks),
        gain=gain,
        dead_outputs=sum(int((~block.flatten(1).any(1)).sum()) for block in blocks),
        dead_inputs=sum(int((~block.transpose(0, 1).flatten(1).any(1)).sum()) for block in blocks),
    )
    if not bool(used.isfinite().all()):
        return replace(row, note="holds NaN or infinity"), blocks
    side = max(min(len(block), math.prod(block.shape[1:])) for block in blocks)
    if side > MAX_SIDE:
        return replace(row, note=f"a matrix with {side} rows and columns, over the {MAX_SIDE}"), blocks
    values = [found for group in _by_shape(blocks) for found in spectrum_of(group.flatten(2))]
    return replace(row, matrix=Isometry.of_values(values, gain)), blocks


def _by_shape(blocks: Sequence[Tensor]) -> list[Tensor]:
    """Blocks of equal shape stacked, as many at a time as take 128 MiB in float64 at most (or one)."""
    groups: defaultdict[Shape, list[Tensor]] = defaultdict(list)
    for block in blocks:
        groups[tuple(block.shape)].append(block)
    stacks = []
    for shape, group in groups.items():
        most = max(1, 2**24 // math.prod(shape))
        parts = (group[start : start + most] for start in range(0, len(group), most))
        stacks += [part[0][None] if len(part) == 1 else torch.stack(part) for part in parts]
    return stacks


def _with_operator(
    row: LayerIsometry,
    weight: Weight,
    blocks: Sequence[Tensor],
    given: Given,
    how: _How,
) -> LayerIsometry:
    convolution, size = weight.convolution, given.size
    if convolution is None or size is None:
        return replace(row, note="its module was not called: no operator")
    row = replace(row, size=size)
    if not given.explained:
        return replace(row, note="its module does something else than this convolution: no operator")
    stacks = [stack.double() for stack in _by_shape(blocks)]
    if how.operator == "circular":
        values = [found for stack in stacks for found in circular_values(convolution, stack, size)]
        row = replace(row, operator=Isometry.of_values(values, row.gain))
    elif len(stacks) > 1:
        row = replace(row, note="blocks of several shapes: no operator")
    else:
        row = _padded(row, convolution, stacks[0], size, how)
    if given.calls > 1:
        row = replace(row, note=row.note or f"run {given.calls} times: the operator is that of the first")
    return row


def _padded(
    row: LayerIsometry,
    convolution: Convolution,
    stack: Tensor,
    size: Shape,
    how: _How,
) -> LayerIsometry:
    """The values are those of the kernel over the gain: estimates of their distance from 1 need it."""
    choice = how.method
    maps = convolution_operator(convolution, stack / row.gain, size)
    try:
        spectrum = choice.member.measure(maps, generator(how.seed, "layers", row.name), **choice.options)
    except BadInput as error:
        return replace(row, note=str(error))
    if spectrum.kind == "exact":
        return replace(row, operator=Isometry.of_values(list(spectrum.values * row.gain), row.gain))
    return replace(row, operator=Isometry.of_ratios(spectrum, row.gain, maps.examples))
