"""How far blocks are from having orthonormal rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sigprune.values.spectrum import Spectrum

_DIRECT = 2048
_PART = 4096


def residual(blocks: Tensor) -> Tensor:
    """``|| B Bᵀ - I ||_F`` of every block.

    Uses the smaller Gram matrix: ``||B Bᵀ - I||² = ||Bᵀ B - I||² + rows - columns``.

    Args:
        blocks: floating, shape (count, rows, columns).

    Returns:
        Shape (count,), the same dtype. Lee et al. 2020 average it over layers as the orthogonality score.

    Example:
        >>> residual(torch.eye(3)[None])
        tensor([0.])
    """
    rows, columns = blocks.shape[1:]
    small = blocks if rows <= columns else blocks.mT
    gram = small @ small.mT
    gram.diagonal(dim1=1, dim2=2).sub_(1.0)
    norm: Tensor = torch.linalg.matrix_norm(gram)
    return norm.square().add(max(rows - columns, 0)).sqrt()


def floor(rows: int, columns: int) -> float:
    """The smallest residual that any block of this shape can have: sqrt(max(rows - columns, 0))."""
    return math.sqrt(max(rows - columns, 0))


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
