"""The contract of the schedules, over every member."""

from __future__ import annotations

import pytest

from sigprune.base.errors import BadInput
from sigprune.families.schedules import schedules


@pytest.mark.parametrize("name", schedules.names())
@pytest.mark.parametrize(
    ("total", "target"), [(1000, 100), (1000, 0), (1000, 1), (1000, 999), (1000, 1000), (1, 1), (7, 3)]
)
def test_contract(name, total, target):
    counts = schedules.get(name).kept(total, target)
    assert counts[-1] == target
    assert all(later <= earlier for earlier, later in zip([total, *counts], counts, strict=False))
    assert all(isinstance(c, int) for c in counts)


def test_exponential_follows_the_law():
    assert schedules.get("exponential").kept(10_000, 1, rounds=4) == [1000, 100, 10, 1]


def test_linear_removes_as_much_in_every_round():
    assert schedules.get("linear").kept(1000, 200, rounds=4) == [800, 600, 400, 200]


def test_cubic_follows_the_law():
    """target + (total - target) (1 - t / rounds)^3."""
    assert schedules.get("cubic").kept(1064, 1000, rounds=4) == [1027, 1008, 1001, 1000]


def test_halving_approaches_from_one_half():
    """Sparsities 0.5, 0.7, 0.8, 0.85, then 0.9: each but the last halves the distance."""
    assert schedules.get("halving").kept(1000, 100) == [500, 300, 200, 150, 100]
    assert schedules.get("halving").kept(1000, 100, rounds=1) == [100]
    assert schedules.get("halving").kept(1000, 600) == [600], "less than one half is removed at once"


@pytest.mark.parametrize("name", [n for n in schedules.names() if "rounds" in schedules.read(n).options])
def test_no_round_is_refused(name):
    with pytest.raises(BadInput, match="at least one round"):
        schedules.get(name).kept(10, 1, rounds=0)
