"""The contract of the allocations, over every member: exact sums, capacities, unbiased ties."""

from __future__ import annotations

import math

import pytest
import torch

from sigprune.base.seeds import generator
from sigprune.families.allocations import allocations
from sigprune.values.ranking import Ranking

BLOCKS = {"stem": (8, 3, 3, 3), "wide": (64, 64), "narrow": (2, 50), "bias": (5,), "one": (1, 1)}
TOTAL = sum(math.prod(shape) for shape in BLOCKS.values())


def ranking(budget: int, seed: int = 0, tied: bool = False, removed: float = 0.0) -> Ranking:
    draw = generator(seed, "test", "ranking")
    scores, capacity = {}, {}
    for name, shape in BLOCKS.items():
        values = torch.ones(shape) if tied else torch.rand(shape, generator=draw)
        gone = torch.rand(shape, generator=draw) < removed
        scores[name] = values.masked_fill(gone, -torch.inf)
        capacity[name] = int((~gone).sum())
    return Ranking(scores, capacity, BLOCKS, budget, generator(seed, "test", "ties"))


@pytest.mark.parametrize("name", allocations.names())
@pytest.mark.parametrize("tied", [False, True], ids=["distinct", "tied"])
@pytest.mark.parametrize("budget", [0, 1, 2, 7, TOTAL // 10, TOTAL // 2, TOTAL - 1, TOTAL])
def test_contract(name, tied, budget):
    counts = allocations.get(name).allocate(ranking(budget, tied=tied))
    assert list(counts) == list(BLOCKS)
    assert sum(counts.values()) == budget
    assert all(0 <= k <= math.prod(BLOCKS[n]) for n, k in counts.items())
    assert counts == allocations.get(name).allocate(ranking(budget, tied=tied)), "equal seeds, equal counts"


@pytest.mark.parametrize("name", allocations.names())
def test_capacities_are_respected(name):
    problem = ranking(budget=1000, removed=0.7)
    counts = allocations.get(name).allocate(problem)
    assert sum(counts.values()) == 1000
    assert all(k <= problem.capacity[n] for n, k in counts.items())


def test_pooled_equals_a_full_sort():
    problem = ranking(budget=900)
    everything = sorted((float(v), n) for n, t in problem.scores.items() for v in t.reshape(-1))[-900:]
    expected = {name: sum(owner == name for _, owner in everything) for name in BLOCKS}
    assert allocations.get("pooled").allocate(problem) == expected


def test_pooled_ties_go_to_no_weight_in_particular():
    """All scores equal: each weight keeps its share, whatever its position (naive top-k keeps the first)."""
    kept = {name: 0 for name in BLOCKS}
    for seed in range(40):
        for name, count in allocations.get("pooled").allocate(ranking(TOTAL // 10, seed, tied=True)).items():
            kept[name] += count
    for name, shape in BLOCKS.items():
        mean = 40 * math.prod(shape) * (TOTAL // 10) / TOTAL
        assert abs(kept[name] - mean) < 5 * math.sqrt(mean) + 1, name


def test_uniform_keeps_one_density():
    counts = allocations.get("uniform").allocate(ranking(TOTAL // 4))
    assert all(abs(k - math.prod(BLOCKS[n]) / 4) < 1 for n, k in counts.items())


def test_erk_closed_form():
    """density_l = min(1, eps * sum(dims) / prod(dims)), with the one eps that meets the budget."""
    budget = TOTAL // 5
    counts = allocations.get("erk").allocate(ranking(budget))
    low, high = 0.0, 1e6
    sizes = {n: math.prod(b) for n, b in BLOCKS.items()}
    for _ in range(200):
        eps = (low + high) / 2
        ideal = {n: min(sizes[n], eps * sizes[n] * sum(b) / math.prod(b)) for n, b in BLOCKS.items()}
        low, high = (eps, high) if sum(ideal.values()) < budget else (low, eps)
    assert all(abs(counts[n] - ideal[n]) < 1 for n in BLOCKS)
