"""Stochastic Lanczos quadrature: what a bidiagonalisation from random probes tells of a spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sigprune.families.spectra._bidiagonal import bidiagonalise
from sigprune.families.spectra._shared import small_side_first
from sigprune.values.operator import Operator
from sigprune.values.spectrum import Estimate, Spectrum

CONVERGED = 1e-2
"""A singular value is known once its bound is at most this share of it."""

CHANCE = 25.0
"""n times the weight of a simple singular value is chi-squared (1): it is larger with probability 6e-7."""

LEFT = 0.05
"""The weight of m values is near m / n, and hardly ever below this share of it unless they are very few."""


@dataclass(frozen=True, eq=False)
class Rule:
    """Quadrature rules for the spectrum of n singular values, one per run.

    Attributes:
        nodes: shape (runs, nodes), descending.
        shares: of the spectrum, shape of ``nodes``; each row sums to 1.
        rest: shares of the part that is known by its probe only; each row sums to 1, or 0 if there is none.
        unknown: the share of that part, shape (runs,).
    """

    nodes: Tensor
    shares: Tensor
    rest: Tensor
    unknown: Tensor

    def integral(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean of a function over the spectrum, shape (runs,)."""
        return (self.shares * function(self.nodes)).sum(1)

    def variance(self, function: Callable[[Tensor], Tensor], count: int) -> Tensor:
        """Of the integral: uᵀFu of a uniform unit vector u of size d has 2 / (d + 2) of F's spectrum's."""
        values = function(self.nodes)
        mean = (self.rest * values).sum(1, keepdim=True)
        spread = (self.rest * (values - mean).square()).sum(1)
        return 2 * self.unknown.square() * spread / (self.unknown * count + 2)


def lanczos_spectrum(
    operator: Operator,
    generator: torch.Generator,
    *,
    steps: int,
    probes: int,
    top: int,
    max_memory_gib: float,
) -> Spectrum:
    """See the member ``lanczos``."""
    operator = small_side_first(operator)
    count, steps = operator.shape[0], min(steps, operator.shape[0])
    found = bidiagonalise(operator, generator, steps, probes, max_memory_gib)
    products = probes * (2 * steps - (steps == count))
    matrix = found.matrix().cpu()
    broken = ~matrix.isfinite().all(2).all(1)
    matrix = torch.where(broken[:, None, None], 0.0, matrix)
    left, values, right = torch.linalg.svd(matrix[:, :-1])
    rounding = 10 * torch.finfo(operator.dtype).eps * values[:, :1]
    bounds = matrix[:, -1:, -1] * right[:, :, -1].abs() + rounding
    weights = left[:, 0].square()
    known = _known(values, bounds, weights, count)
    rules = _rule(values, weights, known, count), _radau(matrix, known, count)
    spoilt = torch.where(broken, torch.nan, 0.0)
    best = _best(values + spoilt[:, None], bounds, operator.examples)
    nodes, shares = _joined(rules[0], spoilt, operator.examples)
    return Spectrum(
        nodes,
        "quadrature",
        weights=shares,
        count=operator.examples * count,
        top=best[0][:, :top],
        bounds=best[1][:, :top],
        mean=_estimate(rules, lambda s: s, count, spoilt),
        mean_square=_estimate(rules, torch.square, count, spoilt),
        gap=_estimate(rules, lambda s: (s.square() - 1).square(), count, spoilt),
        method=f"Lanczos: {steps} steps from {probes} probe{'s' * (probes > 1)} ({products} products)",
    )


def _known(values: Tensor, bounds: Tensor, weights: Tensor, count: int) -> Tensor:
    """How many of the leading nodes are singular values of their own, each a 1/n of the spectrum.

    A weight too large for chance is that of many equal values, and stays a share that the probe tells. So it
    is where too little weight is left for all the other values.
    """
    if values.shape[1] == count:
        return torch.full((len(values),), count)
    sure = (bounds <= CONVERGED * values) & (count * weights <= CHANCE)
    left, others = 1 - weights.cumsum(1), count - 1 - torch.arange(values.shape[1])
    return (sure & (count * left >= LEFT * others)).long().cumprod(1).sum(1)


def _leading(known: Tensor, size: int) -> Tensor:
    return torch.arange(size) < known[:, None]


def _rule(nodes: Tensor, weights: Tensor, known: Tensor, count: int) -> Rule:
    """Known singular values have equal shares; the others share what is left as the probe weighs them.

    Source: Bhattacharjee et al. 2025, arXiv 2410.21690 (quadrature with less variance).
    """
    leading = _leading(known, nodes.shape[1])
    rest = torch.where(leading, 0.0, weights)
    rest = rest / rest.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    unknown = 1 - known.double() / count
    return Rule(nodes, torch.where(leading, 1 / count, unknown[:, None] * rest), rest, unknown)


def _radau(matrix: Tensor, known: Tensor, count: int) -> Rule:
    """The Gauss-Radau rule with a node at 0: it underestimates a mean value where Gauss' overestimates it.

    Source: Golub, Meurant 2010, Matrices, Moments and Quadrature, section 6.2.
    """
    left, values, _ = torch.linalg.svd(matrix)
    nodes = torch.cat([values, torch.zeros(len(values), 1, dtype=values.dtype)], 1)
    return _rule(nodes, left[:, 0].square(), known, count)


def _estimate(
    rules: tuple[Rule, Rule], function: Callable[[Tensor], Tensor], count: int, spoilt: Tensor
) -> Estimate:
    """Between the two rules, pooled; the error has the variance over probes and half their distance."""
    one, other = (rule.integral(function) + spoilt for rule in rules)
    variance = rules[0].variance(function, count)
    chance, distance = float(variance.sum().sqrt()) / len(one), float((one - other).abs().mean()) / 2
    return Estimate(float((one + other).mean()) / 2, math.hypot(chance, distance))


def _best(values: Tensor, bounds: Tensor, examples: int) -> tuple[Tensor, Tensor]:
    """Each example's values from the probe that found the largest: no probe finds too large ones."""
    best = values.unflatten(0, (-1, examples)).max(0)
    return best.values, bounds.unflatten(0, (-1, examples)).gather(0, best.indices[None])[0]


def _joined(rule: Rule, spoilt: Tensor, examples: int) -> tuple[Tensor, Tensor]:
    """The rules of an example's probes as one, nodes descending."""
    nodes = (rule.nodes + spoilt[:, None]).unflatten(0, (-1, examples)).transpose(0, 1).flatten(1)
    shares = rule.shares.unflatten(0, (-1, examples)).transpose(0, 1).flatten(1)
    order = nodes.argsort(1, descending=True)
    return nodes.gather(1, order), shares.gather(1, order) * examples / len(rule.nodes)
