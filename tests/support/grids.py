"""Grids of parameters: a few representative members fast, the whole grid slow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import pytest


def thinned(*axes: Sequence[object], about: int) -> list:
    """All combinations; of about so many one is fast, the others are marked slow.

    The distance between the fast ones has no divisor in common with the length of any axis: they take every
    value of every axis, a new member of a family too, and most pairs of values.
    """
    while any(math.gcd(len(axis), about) > 1 for axis in axes):
        about += 1
    return [
        pytest.param(*each, id="-".join(map(str, each)), marks=[pytest.mark.slow] * bool(number % about))
        for number, each in enumerate(product(*axes))
    ]
