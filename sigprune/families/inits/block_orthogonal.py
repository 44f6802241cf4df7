"""A random kernel that fills all its taps and whose convolution is isometric."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from sigprune.base.registry import Positive
from sigprune.families.inits._shared import haar, semi_orthogonal
from sigprune.values.block_spec import BlockSpec

PAPER = "Xiao et al. 2018, arXiv 1806.05393, Algorithm 1"


def init(spec: BlockSpec, *, gain: Positive = 1.0) -> Tensor:
    """Singular values ``gain`` of the convolution operator at stride 1 with circular padding.

    A kernel of size k is the convolution of k - 1 kernels of size 2, each made of random projections, times
    a matrix with orthonormal rows; without a kernel it is ``orthogonal``. The paper asks for square kernels
    and in <= out: here longer sides get further kernels along them, and in > out is the adjoint of the
    opposite case (co-isometric). Cost: about (2 · taps)^2 products (in, n) x (n, n), n the larger of in and
    out, in float64.
    """
    out, channels, *sizes = spec.shape
    wide, narrow = max(out, channels), min(out, channels)
    taps = {(0,) * len(sizes): semi_orthogonal(spec, narrow, wide)}
    for step in range(max(sizes, default=1) - 1):
        axes = [axis for axis, size in enumerate(sizes) if size > step + 1]
        taps = _convolved(taps, axes, [_projection(spec, wide) for _ in axes])
    kernel = torch.zeros(narrow, wide, *sizes, dtype=torch.float64)
    for place, matrix in taps.items():
        tap = kernel
        for index in place:  # each step takes the first kernel axis that is left
            tap = tap.select(2, index)
        tap.copy_(matrix)
    if out >= channels:
        return gain * kernel.transpose(0, 1).contiguous()
    return gain * kernel.flip(tuple(range(2, kernel.dim()))).contiguous()


def _projection(spec: BlockSpec, size: int) -> Tensor:
    """A symmetric projection onto a random subspace: every direction is kept with probability 1/2."""
    basis = haar(spec, size, size)
    kept = basis[:, torch.rand(size, generator=spec.generator) < 0.5]
    return kept @ kept.T


def _convolved(
    taps: dict[tuple[int, ...], Tensor], axes: list[int], projections: list[Tensor]
) -> dict[tuple[int, ...], Tensor]:
    """The taps convolved with a kernel of size 2 along the axes: P at 0, I - P at 1, one factor per axis."""
    result: dict[tuple[int, ...], Tensor] = {}
    for place, matrix in taps.items():
        for bits in itertools.product((0, 1), repeat=len(axes)):
            moved, product = list(place), matrix
            for axis, bit, projection in zip(axes, bits, projections, strict=True):
                moved[axis] += bit
                projected = product @ projection
                product = product - projected if bit else projected
            key = tuple(moved)
            result[key] = result[key] + product if key in result else product
    return result
