"""Allocations straight from their definitions: full sorts and bisections in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor


def pooled(scores: Mapping[str, Tensor], budget: int, floor: float = 0.0) -> dict[str, int]:
    """A full sort; with a floor, each weight's own best before all others."""
    rows = []
    for name, values in scores.items():
        ordered = sorted((float(v) for v in values.reshape(-1)), reverse=True)
        sure = math.ceil(floor * len(ordered))
        rows += [(i < sure, value, name) for i, value in enumerate(ordered)]
    best = sorted(rows, reverse=True)[:budget]
    return {name: sum(owner == name for _, _, owner in best) for name in scores}


def erk(blocks: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int], budget: int) -> dict[str, float]:
    """min(n, eps · n · sum(dimensions) / prod(dimensions))."""
    return meet(
        lambda eps: {n: min(sizes[n], eps * sizes[n] * sum(b) / math.prod(b)) for n, b in blocks.items()},
        budget,
    )


def igq(sizes: Mapping[str, int], budget: int) -> dict[str, float]:
    """n / (F · n + 1)."""
    return meet(lambda x: {n: size / (size / x + 1) for n, size in sizes.items()}, budget)


def uniform_plus(sizes: Mapping[str, int], budget: int, stem: str, head: str) -> dict[str, float]:
    """One density for all but the first convolution (dense) and the classifier (a fifth, if that is more)."""

    def at(density: float) -> dict[str, float]:
        own = {stem: 1.0, head: max(density, math.ceil(0.2 * sizes[head]) / sizes[head])}
        return {n: min(own.get(n, density), 1.0) * size for n, size in sizes.items()}

    return meet(at, budget)


def meet(ideal: Callable[[float], dict[str, float]], budget: int) -> dict[str, float]:
    """The ideal counts at the parameter where they sum to the budget."""
    low, high = 1e-12, 1e12
    for _ in range(300):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if sum(ideal(middle).values()) < budget else (low, middle)
    return ideal(low)
