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


def test_no_round_is_refused():
    with pytest.raises(BadInput, match="at least one round"):
        schedules.get("exponential").kept(10, 1, rounds=0)
