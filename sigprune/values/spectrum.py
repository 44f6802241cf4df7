"""Spectra: singular values, or estimates of them with their errors."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["exact", "quadrature", "moments"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error (0 where it is exact, NaN where either is not known)."""

    value: float = math.nan
    error: float = math.nan


@dataclass(frozen=True)
class Summary:
    """Statistics of the singular values pooled over all examples (Lee et al. 2020, section 3, pool them too).

    What an estimate does not tell is NaN.

    Attributes:
        count: min(outputs, inputs) of every example, summed.
        mean: of the values.
        mean_error: its standard error.
        std: of the values.
        min: the smallest.
        median: half of the values are not larger.
        max: the largest.
        condition: max / min, infinite when the smallest value is zero.
        mean_square: of the values: ||J||²_F / count.
        mean_square_error: its standard error.
        gap: the isometry gap, the mean of (s² - 1)².
        gap_error: its standard error.
        flatness: geometric over arithmetic mean of the squares, det(M)^(1/n) / (tr(M) / n) for M = J Jᵀ:
            1 if all values are equal whatever their scale, 0 if one is zero.
    """

    count: int
    mean: float = math.nan
    mean_error: float = math.nan
    std: float = math.nan
    min: float = math.nan
    median: float = math.nan
    max: float = math.nan
    condition: float = math.nan
    mean_square: float = math.nan
    mean_square_error: float = math.nan
    gap: float = math.nan
    gap_error: float = math.nan
    flatness: float = math.nan

    def to_dict(self) -> dict[str, float]:
        """The fields as plain numbers."""
        return asdict(self)

    @property
    def level(self) -> float:
        """The mean singular value, or (never smaller) its root mean square where only that is known."""
        return math.sqrt(self.mean_square) if math.isnan(self.mean) else self.mean


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of an operator.

    Attributes:
        values: float64, shape (examples, values per example), each row in descending order. Of an ``exact``
            spectrum these are all singular values, of ``quadrature`` the nodes of a quadrature rule, of
            ``moments`` none.
        kind: how they were found.
        weights: of a quadrature, the share of the spectrum at each node, shape of ``values``; each row sums
            to 1.
        count: min(outputs, inputs) of every example, summed; the number of ``values`` if it is left out.
        top: the largest singular values of each example, shape (examples, k), descending; all ``values`` of
            an exact spectrum.
        bounds: how far each of ``top`` may be from a singular value, same shape; None: nothing at all.
        mean: of the singular values, where it was estimated.
        mean_square: of the singular values, where it was estimated.
        gap: mean of (s² - 1)², where it was estimated.
        method: what was done, in a few words.

    Example:
        >>> spectrum = Spectrum(torch.tensor([[2.0, 1.0]], dtype=torch.float64))
        >>> spectrum.summary().condition
        2.0
    """

    values: Tensor
    kind: Kind = "exact"
    weights: Tensor | None = None
    count: int | None = None
    top: Tensor | None = None
    bounds: Tensor | None = None
    mean: Estimate = Estimate()
    mean_square: Estimate = Estimate()
    gap: Estimate = Estimate()
    method: str = ""

    def summary(self) -> Summary:
        """Statistics of the values pooled over all examples."""
        count = self.values.numel() if self.count is None else self.count
        if self.kind != "exact":
            return self._estimated(count)
        pooled = self.values.detach().cpu().reshape(-1).double()
        squares = pooled.square()
        low, high, mean_square = float(pooled.min()), float(pooled.max()), float(squares.mean())
        logs = squares.clamp_min(torch.finfo(torch.float64).tiny).log().mean() if low > 0 else -math.inf
        return Summary(
            count=count,
            mean=float(pooled.mean()),
            mean_error=0.0,
            std=float(pooled.std(correction=0)),
            min=low,
            median=float(pooled.quantile(0.5)) if count < 2**24 else float(pooled.median()),
            max=high,
            condition=high / low if low > 0 else math.inf,
            mean_square=mean_square,
            mean_square_error=0.0,
            gap=float((squares - 1).square().mean()),
            gap_error=0.0,
            flatness=math.exp(float(logs)) / mean_square if mean_square > 0 else 0.0,
        )

    def quantiles(self, at: tuple[float, ...] = QUANTILES) -> tuple[float, ...]:
        """Values that such shares of the spectrum do not exceed; NaN where only moments are known."""
        if self.values.numel() == 0:
            return (math.nan,) * len(at)
        nodes, shares = self._pooled()
        reached = shares.cumsum(0)
        places = torch.searchsorted(reached, torch.tensor(at, dtype=torch.float64) * (1 - 1e-12))
        return tuple(nodes[places.clamp_max(len(nodes) - 1)].tolist())

    def _estimated(self, count: int) -> Summary:
        known = {
            "mean": self.mean.value,
            "mean_error": self.mean.error,
            "mean_square": self.mean_square.value,
            "mean_square_error": self.mean_square.error,
            "gap": self.gap.value,
            "gap_error": self.gap.error,
        }
        variance = self.mean_square.value - self.mean.value**2
        if self.top is not None:
            known["max"] = float(self.top.max())
        return Summary(
            count=count,
            std=math.sqrt(max(variance, 0.0)) if not math.isnan(variance) else math.nan,
            median=self.quantiles((0.5,))[0],
            **known,
        )

    def _pooled(self) -> tuple[Tensor, Tensor]:
        """Nodes of all examples in ascending order, and the share of the pooled spectrum at each."""
        nodes = self.values.detach().cpu().double()
        shares = torch.full_like(nodes, 1 / nodes.shape[1]) if self.weights is None else self.weights.cpu()
        order = nodes.reshape(-1).argsort()
        return nodes.reshape(-1)[order], (shares / len(nodes)).reshape(-1)[order]
