"""Everything is removed in one round."""

from __future__ import annotations

PAPER = "Lee et al. 2019, arXiv 1810.02340"


def kept(total: int, target: int) -> list[int]:  # noqa: ARG001 - the contract of the family
    """The target at once."""
    return [target]
