"""The contract of the patterns, over every member: exact counts, seeded ties."""

from __future__ import annotations

import pytest
import torch

from sigprune.base.seeds import generator
from sigprune.families.patterns import patterns


def select(name: str, scores: torch.Tensor, count: int, seed: int = 0) -> torch.Tensor:
    return patterns.get(name).select(scores, count, generator(seed, "test", name))


@pytest.mark.parametrize("name", patterns.names())
@pytest.mark.parametrize("tied", [False, True], ids=["distinct", "tied"])
@pytest.mark.parametrize("count", [0, 1, 59, 119, 120])
def test_contract(name, tied, count):
    scores = torch.zeros(4, 5, 6) if tied else torch.rand(4, 5, 6, generator=generator(0, "test", "scores"))
    keep = select(name, scores, count)
    assert keep.shape == scores.shape
    assert keep.dtype is torch.bool
    assert int(keep.sum()) == count
    assert torch.equal(keep, select(name, scores, count))


@pytest.mark.parametrize("name", patterns.names())
def test_what_an_earlier_round_removed_stays_removed(name):
    scores = torch.rand(4, 5, 6, generator=generator(0, "test", "scores"))
    first = select(name, scores, 60)
    second = select(name, scores.masked_fill(~first, -torch.inf), 30)
    assert not (second & ~first).any()


@pytest.mark.parametrize("count", [1, 59, 119])
def test_unstructured_keeps_the_highest(count):
    scores = torch.rand(4, 5, 6, generator=generator(0, "test", "scores"))
    keep = select("unstructured", scores, count)
    assert scores[keep].min() > scores[~keep].max()


def test_ties_are_not_broken_by_position():
    keeps = torch.stack([select("unstructured", torch.zeros(100), 10, seed) for seed in range(200)])
    first_half = int(keeps[:, :50].sum())
    assert abs(first_half - 1000) < 5 * (2000 * 0.25) ** 0.5
