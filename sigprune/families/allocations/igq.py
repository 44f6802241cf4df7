"""Ideal gas quotas: all weights are compressed by one force, large ones more than small ones."""

from __future__ import annotations

from sigprune.base.registry import Share
from sigprune.families.allocations._shared import divide, floors
from sigprune.values.ranking import Ranking

PAPER = "Vysogorets and Kempe 2021, arXiv 2107.02306 (ideal gas quotas, as in the authors' code)"


def allocate(ranking: Ranking, *, floor: Share = 0.0) -> dict[str, int]:
    """Weight l of n_l entries keeps the share 1 / (F · n_l + 1), with the one F that meets the budget.

    The counts n_l / (F · n_l + 1) tend to n_l for small forces and to one number for all weights for large
    ones; F is found by bisection.

    Args:
        ranking: sizes; scores are not looked at.
        floor: least density of every weight.

    Raises:
        BadInput: the sparsity does not leave the floor.
    """
    sizes = ranking.sizes()

    def kept(looseness: float) -> dict[str, float]:  # 1 / F
        return {n: size / (size / looseness + 1) if looseness else 0.0 for n, size in sizes.items()}

    return divide(ranking, kept, floors(ranking, floor))
