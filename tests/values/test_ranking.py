"""Thresholds are exact whatever the sample says; picks are unbiased."""

from __future__ import annotations

import pytest
import torch

from sigprune.base.errors import BadInput
from sigprune.base.rng import generator
from sigprune.values import ranking
from sigprune.values.ranking import pick, threshold
from tests.support.rankings import SITES, matrices


def check(parts: list[torch.Tensor], count: int, left: list[torch.Tensor | None] | None = None) -> None:
    """Against a full sort of what is left."""
    limit, above, tied = threshold(parts, count, left or ())
    chosen = [
        part.double() if keep is None else part.double()[keep]
        for part, keep in zip(parts, left or [None] * len(parts), strict=True)
    ]
    expected = float(
        torch.cat([values.reshape(-1) for values in chosen]).sort(descending=True).values[count - 1]
    )
    assert float(limit) == expected
    assert limit.dim() == 0
    assert above == [int((values > expected).sum()) for values in chosen]
    assert tied == [int((values == expected).sum()) for values in chosen]


VALUES = {
    "distinct": lambda draw: torch.rand(5000, generator=draw),
    "tied": lambda draw: torch.randint(0, 3, (5000,), generator=draw).float(),
    "equal": lambda draw: torch.zeros(5000),  # noqa: ARG005 - as the others
    "mostly removed": lambda draw: torch.rand(5000, generator=draw).masked_fill(
        torch.rand(5000, generator=draw) < 0.9, -torch.inf
    ),
    "heavy tails": lambda draw: torch.randn(5000, generator=draw).exp() ** 8,
    "periodic": lambda draw: torch.arange(5000).remainder(8).float() + 0 * torch.rand(1, generator=draw),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("sampled", [False, True], ids=["whole", "sampled"])
def test_threshold_is_that_of_a_full_sort(kind, sampled, monkeypatch):
    values = VALUES[kind](generator(0, "test", kind))
    if sampled:
        monkeypatch.setattr(ranking, "_SAMPLE", 100)
        monkeypatch.setattr(ranking, "CHUNK", 333)
    for count in (1, 2, 10, 499, 500, 501, 2500, 4999, 5000):
        check([values[:10], values[10:4000].reshape(2, -1), values[4000:]], count)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("sampled", [False, True], ids=["whole", "sampled"])
def test_what_was_removed_does_not_count(kind, sampled, monkeypatch):
    """Whatever scores it has, higher or equal ones too."""
    values = VALUES[kind](generator(0, "test", kind))
    if sampled:
        monkeypatch.setattr(ranking, "_SAMPLE", 100)
        monkeypatch.setattr(ranking, "CHUNK", 333)
    flags = torch.rand(5000, generator=generator(0, "test", "flags")) < 0.4
    flags[:10] = False
    total = 990 + int(flags[:4000].sum())
    for count in (1, 2, 500, total // 2, total - 1, total):
        parts = [values[:10], values[10:4000].reshape(2, -1), values[4000:4990]]
        check(parts, count, [flags[:10], flags[10:4000].reshape(2, -1), None])
    with pytest.raises(BadInput, match=f"the {total + 1} highest of {total} entries do not exist"):
        threshold(parts, total + 1, [flags[:10], flags[10:4000].reshape(2, -1), None])


@pytest.mark.parametrize("low", [0.7, 0.99, -1.0])
def test_a_sample_that_misleads_costs_time_and_not_the_answer(low, monkeypatch):
    """The bracket lies above or below the value: the search goes on outside of it."""
    monkeypatch.setattr(ranking, "_SAMPLE", 100)
    monkeypatch.setattr(ranking, "_bracket", lambda *_: (low, low + 0.01))
    values = torch.rand(5000, generator=generator(0, "test", "misled"))
    for count in (1, 20, 1500, 4999, 5000):
        check([values], count)


def test_two_dtypes_are_compared_in_the_wider_one():
    """A float32 neighbour may not swallow a float64 difference."""
    near = torch.tensor([1.0, 1.0 + 1e-12, 1.0 - 1e-12], dtype=torch.float64)
    check([near, torch.tensor([1.0, 0.0])], 1)
    check([near, torch.tensor([1.0, 0.0])], 2)
    check([near, torch.tensor([1.0, 0.0])], 4)


def test_the_search_collects_few_entries(monkeypatch):
    """What is held besides the scores: less than a tenth of them, also where half of them are equal."""
    held = []
    inner = ranking._split
    monkeypatch.setattr(ranking, "_split", lambda *args: (held.append(inner(*args)), held[-1])[1])
    draw = generator(0, "test", "few")
    values = torch.rand(1_000_000, generator=draw)
    for part in (values, values.masked_fill(values < 0.5, 0.0)):
        for share in (0.01, 0.1, 0.7):
            held.clear()
            threshold([part], int(share * len(part)))
            assert max(len(split.inside) for split in held) < len(part) / 10
            assert len(held) <= 2, "a pass, and one for an end of the bracket where it is the value"


def test_picks_are_different_and_uniform():
    counts = torch.zeros(10)
    for seed in range(500):
        chosen = pick(3, 10, generator(seed, "test", "pick"))
        assert len(set(chosen.tolist())) == 3
        counts[chosen] += 1
    assert bool(((counts - 150).abs() < 5 * 150**0.5).all())


@pytest.mark.parametrize("name", SITES)
def test_rows_are_the_blocks_channels_last(name):
    """Against a listing entry by entry; and the views write through."""
    shape, site = SITES[name]
    tensor = torch.arange(torch.Size(shape).numel()).reshape(shape)
    rows = [view.flatten(1) for view in site.rows(tensor)]
    expected = matrices(site, tensor)
    assert len(rows) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(rows, expected, strict=True))
    for view in site.rows(tensor):
        view.zero_()
    assert not tensor.any()
