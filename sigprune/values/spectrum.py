"""Spectra: singular values, or an estimate of them with its error."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Kind = Literal["exact", "quadrature", "moments"]


@dataclass(frozen=True)
class Summary:
    """Statistics of the singular values pooled over all examples (Lee et al. 2020, section 3, pool them too).

    ``condition`` is max / min, infinite when the smallest value is zero.
    """

    count: int
    mean: float
    std: float
    min: float
    median: float
    max: float
    condition: float

    def to_dict(self) -> dict[str, float]:
        """The fields as plain numbers."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values of an operator.

    Attributes:
        values: float64, shape (examples, values per example), each row in descending order.
        kind: how they were found.
        standard_error: of the mean, where the values are an estimate; 0.0 for an exact spectrum.

    Example:
        >>> spectrum = Spectrum(torch.tensor([[2.0, 1.0]], dtype=torch.float64))
        >>> spectrum.summary().condition
        2.0
    """

    values: Tensor
    kind: Kind = "exact"
    standard_error: float = 0.0

    def summary(self) -> Summary:
        """Statistics of the values pooled over all examples."""
        pooled = self.values.detach().cpu().reshape(-1).to(torch.float64)
        low, high = float(pooled.min()), float(pooled.max())
        return Summary(
            count=pooled.numel(),
            mean=float(pooled.mean()),
            std=float(pooled.std(correction=0)),
            min=low,
            median=float(np.median(pooled.numpy())),
            max=high,
            condition=high / low if low > 0 else math.inf,
        )
