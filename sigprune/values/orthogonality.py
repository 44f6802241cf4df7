"""How far blocks are from having orthonormal rows, as matrices or as convolutions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sigprune.values.layout import Shape
from sigprune.values.spectrum import Spectrum

_DIRECT = 2048
_PART = 4096

Target = Literal["kernel", "operator"]
"""What is to be isometric: the flattened kernel (out, in · taps), or the convolution itself."""


def residual(blocks: Tensor, target: Target = "kernel") -> Tensor:
    """``|| B Bᵀ - I ||_F`` of every block.

    For the ``operator`` it is the root of the mean over frequencies f of ``|| B(f) B(f)ᴴ - I ||²_F``, where
    B(f) is the transform of the kernel: zero exactly if the convolution with circular padding and stride 1,
    in any number of dimensions, is isometric for images of every size from 2 · kernel - 1 on. Uses the
    smaller Gram matrix: ``||B Bᵀ - I||² = ||Bᵀ B - I||² + rows - columns``.

    Args:
        blocks: floating, shape (count, out, in, *kernel).
        target: what is looked at; the same for blocks without a kernel.

    Returns:
        Shape (count,), the same dtype. Lee et al. 2020 average it over layers as the orthogonality score.

    Example:
        >>> residual(torch.eye(3)[None])
        tensor([0.])
    """
    blocks = blocks.flatten(2) if target == "kernel" else blocks
    rows, columns = blocks.shape[1:3]
    small = frequencies(blocks if rows <= columns else blocks.transpose(1, 2))
    gram = small @ small.mH
    gram.diagonal(dim1=2, dim2=3).sub_(1.0)
    square = torch.linalg.vector_norm(gram, dim=(2, 3)).square() @ weights(blocks.shape[3:]).to(blocks)
    norm: Tensor = square.add(max(rows - columns, 0)).sqrt()
    return norm


def floor(keep: Tensor, target: Target = "kernel") -> Tensor:
    """A residual that no values of the kept entries go below: sqrt(rows - rank).

    The rank is at most the number of rows, or of columns, that keep an entry. With the largest number of kept
    entries of which no two share a row or column (a maximum matching) in its place the bound is exact: ones
    there, zeros elsewhere attain it.

    Args:
        keep: boolean, shape (count, out, in, *kernel).
        target: as in :func:`residual`.

    Returns:
        Shape (count,), float64.

    Example:
        >>> floor(torch.tensor([[[True, True], [False, False], [True, False]]]))
        tensor([1.], dtype=torch.float64)
    """
    used = keep.flatten(2) if target == "kernel" else keep[..., None].flatten(3).any(3)
    rank = used.any(2).sum(1).minimum(used.any(1).sum(1))
    return (keep.shape[1] - rank).double().sqrt()


def frequencies(blocks: Tensor) -> Tensor:
    """The matrices of a convolution, one for each frequency; a plain matrix is its own only one.

    The kernel is padded to 2 · kernel - 1 taps, the fewest at which the squares of B(f) B(f)ᴴ have the mean
    that they have over all frequencies. One of each conjugate pair is left out.

    Args:
        blocks: shape (count, rows, columns, *kernel).

    Returns:
        Shape (count, frequencies, rows, columns), complex if there is a kernel.
    """
    kernel = blocks.shape[3:]
    if not kernel:
        return blocks[:, None]
    size, axes = [2 * taps - 1 for taps in kernel], range(3, blocks.dim())
    transformed: Tensor = torch.fft.rfftn(blocks, size, dim=list(axes))
    return transformed.flatten(3).permute(0, 3, 1, 2).contiguous()


def kernels(matrices: Tensor, kernel: Shape) -> Tensor:
    """The adjoint of :func:`frequencies` for inner products that :func:`weights` weigh."""
    if not kernel:
        return matrices[:, 0]
    size, half = [2 * taps - 1 for taps in kernel], (*(2 * taps - 1 for taps in kernel[:-1]), kernel[-1])
    spread = matrices.permute(0, 2, 3, 1).unflatten(3, half)
    padded: Tensor = torch.fft.irfftn(spread, size, dim=list(range(3, spread.dim())))
    for axis, taps in enumerate(kernel, start=3):
        padded = padded.narrow(axis, 0, taps)
    return padded


def weights(kernel: Shape) -> Tensor:
    """The share of each of :func:`frequencies` in a mean over all: conjugate pairs count twice. Float64."""
    if not kernel:
        return torch.ones(1, dtype=torch.float64)
    last = torch.full((kernel[-1],), 2.0, dtype=torch.float64).index_fill(0, torch.tensor(0), 1.0)
    others = math.prod(2 * taps - 1 for taps in kernel[:-1])
    return last.repeat(others) / (others * (2 * kernel[-1] - 1))


def singular_values(blocks: Iterable[Tensor]) -> Tensor:
    """All singular values of flattened blocks (out, in · prod(kernel)) in float64, without those that are 0.

    What is below 1e-9 of the block's largest counts as 0. Raises nothing of its own; costs an SVD per block.
    """
    found = (torch.linalg.svdvals(block.flatten(1).double()) for block in blocks)
    return torch.cat([values[values > 1e-9 * values.max()] for values in found])


def spectrum_of(blocks: Tensor) -> Tensor:
    """All singular values of flattened blocks, zeros included.

    With fewer than 2,048 rows or columns they come from a decomposition of the block, else from its smaller
    Gram matrix, summed up in parts: what is below 1e-7 of the largest is not resolved then.

    Args:
        blocks: floating, shape (count, rows, columns), finite.

    Returns:
        Float64, shape (count, min(rows, columns)), descending.

    Example:
        >>> spectrum_of(torch.diag(torch.tensor([1.0, 3.0]))[None])
        tensor([[3., 1.]], dtype=torch.float64)
    """
    small = blocks if blocks.shape[1] <= blocks.shape[2] else blocks.mT
    if small.shape[1] < _DIRECT:
        values: Tensor = torch.linalg.svdvals(small.double())
        return values
    gram = torch.zeros(len(small), *(small.shape[1],) * 2, dtype=torch.float64, device=blocks.device)
    for start in range(0, small.shape[2], _PART):
        part = small[..., start : start + _PART].double()
        gram.baddbmm_(part, part.mT)
    squares: Tensor = torch.linalg.eigvalsh(gram)
    return squares.clamp_min(0.0).sqrt().flip(1)


@dataclass(frozen=True)
class Isometry:
    """Singular values s of one weight's maps, and how far they are from its gain g.

    What an estimate does not tell is NaN.

    Attributes:
        count: number of values, all blocks together.
        min: the smallest.
        mean: of all values.
        max: the largest.
        std: of all values.
        epsilon: the largest ``|s / g - 1|``, the ε of layer-wise dynamical isometry (Lee et al. 2020, arXiv
            1906.06307, Definition 1).
        gap: the mean of (s² / g² - 1)²; it does not grow with the size.
        residual: ``|| M / g² - I ||_F`` for the smaller of M = B Bᵀ and M = Bᵀ B, mean over blocks (of an
            estimate, their root mean square): sqrt(count · gap) of one block.

    Example:
        >>> Isometry.of_values([torch.tensor([3.0, 1.0])], gain=2.0).epsilon
        0.5
    """

    count: int
    min: float = math.nan
    mean: float = math.nan
    max: float = math.nan
    std: float = math.nan
    epsilon: float = math.nan
    gap: float = math.nan
    residual: float = math.nan

    @classmethod
    def of_values(cls, values: Sequence[Tensor], gain: float) -> Isometry:
        """Of all values of each block, one tensor per block."""
        ratios = [found.cpu() / gain for found in values]
        residuals = [float(torch.linalg.vector_norm(ratio.square() - 1)) for ratio in ratios]
        found = cls.of_ratios(Spectrum(torch.cat(ratios)[None]), gain, len(ratios))
        return replace(found, residual=math.fsum(residuals) / len(residuals))

    @classmethod
    def of_ratios(cls, spectrum: Spectrum, gain: float, blocks: int) -> Isometry:
        """Of what is known of the values over the gain."""
        known = spectrum.summary()
        return cls(
            count=known.count,
            min=gain * known.min,
            mean=gain * known.mean,
            max=gain * known.max,
            std=gain * known.std,
            epsilon=max(abs(known.max - 1), abs(known.min - 1)),
            gap=known.gap,
            residual=math.sqrt(max(known.count / blocks * known.gap, 0.0)),
        )
