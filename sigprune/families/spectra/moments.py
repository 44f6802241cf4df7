"""Mean square and isometry gap of the singular values, without the values: Hutchinson's estimator."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.base.registry import Count, Positive
from sigprune.families.spectra._shared import small_side_first
from sigprune.values.operator import Operator
from sigprune.values.spectrum import Estimate, Spectrum

PAPER = (
    "Hutchinson 1990, doi 10.1080/03610919008812866; pairs of probes: Kong, Valiant 2017, arXiv 1602.00061"
)


def measure(
    operator: Operator,
    generator: torch.Generator,
    *,
    probes: Count = 64,
    at_once: Count = 16,
    max_memory_gib: Positive = 8.0,
) -> Spectrum:
    """Mean square E[s²] and gap E[(s² - 1)²] of all examples, unbiased, each with its standard error.

    The probes u of an example are orthonormal, drawn uniformly on the smaller side of the map: the products
    Jᵀu and their inner products are a random compression of H = J Jᵀ - 1, whose trace and Frobenius norm tell
    those of H. All are exact from min(outputs, inputs) probes on; one probe has no standard error and no gap.
    The relative error of the mean square is sqrt(2 / (probes r)), where r = (sum s²)² / sum s⁴: where a few
    values dominate, ``lanczos`` is the better method. Cost: one product per probe, ``at_once`` in a batch;
    none is a forward-mode one unless inputs are fewer than outputs. Memory: the products.

    Raises:
        BadInput: the products take more than ``max_memory_gib`` GiB.
    """
    operator = small_side_first(operator)
    small, large = operator.shape
    count = min(probes, small)
    needed = count * operator.examples * large * operator.dtype.itemsize / 2**30
    if needed > max_memory_gib:
        raise BadInput(
            f"moments from {count} probes take {needed:.3g} GiB, over the limit "
            f"max_memory_gib={max_memory_gib:g}; take fewer probes, or fewer examples "
            "(recipe: measure.examples)"
        )
    units = torch.stack([_orthonormal(small, count, generator) for _ in range(operator.examples)], 1)
    units = units.to(operator.device, operator.dtype)
    products = torch.cat([operator.rmatmat(part) for part in units.split(at_once)])
    compressed = torch.stack([_gram(example) for example in products.unbind(1)])
    deviations = compressed - torch.eye(count, dtype=torch.float64)
    diagonal, rows = deviations.diagonal(dim1=1, dim2=2), deviations.square().sum(2)
    level, gap, level_error = _invariants(diagonal.sum(1), rows.sum(1), count, small)
    return Spectrum(
        torch.empty(operator.examples, 0, dtype=torch.float64),
        "moments",
        count=operator.examples * small,
        mean_square=_pooled(level + 1, level_error),
        gap=_pooled(gap, _jackknife(diagonal, rows, small)),
        method=f"moments from {count} probes",
    )


def _orthonormal(size: int, count: int, generator: torch.Generator) -> Tensor:
    """Rows: orthonormal, uniformly distributed; all unit vectors where nothing is left to chance."""
    if count == size:
        return torch.eye(size, dtype=torch.float64)
    draws = torch.randn(size, count, generator=generator, dtype=torch.float64)
    rows: Tensor = torch.linalg.qr(draws).Q.T
    return rows


def _gram(products: Tensor) -> Tensor:
    """Inner products in float64, from a block of columns at a time, on the CPU."""
    total = torch.zeros(len(products), len(products), dtype=torch.float64, device=products.device)
    for block in products.split(2**16, 1):
        total.addmm_(block.double(), block.double().T)
    return total.cpu()


def _constants(size: int, count: int) -> tuple[float, float]:
    """Var(tr PH) and E ||PHP - (tr PH / count) P||²_F over ||H||²_F, for any H with tr H = 0.

    P projects on ``count`` uniform directions of ``size``: E[P_ij P_kl] is a δ_ij δ_kl + b (δ_ik δ_jl +
    δ_il δ_jk) as for every law that rotations keep, and tr P = count and P² = P give a and b.
    """
    if count == size:
        return 0.0, 1.0
    b = count * (size - count) / (size * (size - 1) * (size + 2))
    a = count / size - b * (size + 1)
    return 2 * b, a + b - 2 * b / count


def _invariants(trace: Tensor, squares: Tensor, count: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Unbiased tr(H)/n and ||H||²_F/n from those of compressions, and the standard error of the first."""
    variance, spread = _constants(size, count)
    level = trace / count
    rest = squares - count * level.square()
    traceless = rest.clamp_min(0) / spread if count > 1 or size == 1 else torch.full_like(level, torch.nan)
    of_level = variance * traceless / count**2
    return level, level.square() - of_level + traceless / size, of_level.sqrt()


def _jackknife(diagonal: Tensor, rows: Tensor, size: int) -> Tensor:
    """The standard error of the gap, from leaving out one probe at a time; ``rows`` are sums of squares."""
    count = diagonal.shape[1]
    if count == size:
        return torch.zeros(len(diagonal), dtype=torch.float64)
    if count < 3:
        return torch.full((len(diagonal),), torch.nan, dtype=torch.float64)
    trace = diagonal.sum(1, keepdim=True) - diagonal
    squares = rows.sum(1, keepdim=True) - 2 * rows + diagonal.square()
    gaps = _invariants(trace, squares, count - 1, size)[1]
    spread = (count - 1) / count * (gaps - gaps.mean(1, keepdim=True)).square().sum(1)
    return (spread * (1 - count / size)).sqrt()


def _pooled(values: Tensor, errors: Tensor) -> Estimate:
    """The mean over examples, whose errors are independent."""
    return Estimate(float(values.mean()), float(errors.square().sum().sqrt() / len(errors)))
