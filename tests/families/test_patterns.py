"""The contract of the patterns, over every member (exact counts, seeded ties), and the invariant of each."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from sigprune.base.errors import BadInput
from sigprune.families.allocations import allocations
from sigprune.families.patterns import patterns
from sigprune.values.layout import Layout
from sigprune.values.ranking import Ranking, Site
from tests.support import rankings
from tests.support.rankings import HEAD, SITES, matrices, of_scores, ranking

TOTAL = rankings.total()
ALLOCATIONS = ["pooled", "uniform", "erk", "igq"]
SEVERAL = [name for name in patterns.names() if patterns.get(name).COUNTS != "fixed"]
UNITS = {"block": {"rows": 4, "columns": 3}, "channel": {"rows": 2}}


def select(name: str, given: Ranking, allocation: str = "pooled", **options: int) -> dict[str, torch.Tensor]:
    allocate = partial(allocations.get(allocation).allocate)
    return patterns.get(name).select(given, allocate, **options)


def kept(masks: dict[str, torch.Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def largest_unit(name: str, **options: int) -> int:
    """Entries of the largest unit of any weight."""
    if patterns.get(name).COUNTS == "exact":
        return 1
    given = {"rows": 16 if name == "block" else 1, "columns": 1} | options
    shapes = [m.shape for n, (shape, site) in SITES.items() for m in matrices(site, torch.zeros(shape))]
    columns = [width if name == "channel" else min(given["columns"], width) for _, width in shapes]
    return max(min(given["rows"], rows) * width for (rows, _), width in zip(shapes, columns, strict=True))


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("tied", [False, True], ids=["distinct", "tied"])
@pytest.mark.parametrize("budget", [0, 1, 400, TOTAL // 2, TOTAL - 1, TOTAL])
def test_contract(name, tied, budget):
    given = ranking(budget, tied=tied)
    if 0 < budget < largest_unit(name) and patterns.get(name).COUNTS == "whole units":
        try:
            masks = select(name, given)
        except BadInput as error:
            assert f"a budget of {budget} entries pays for no whole unit" in str(error)  # noqa: PT017
            return
    else:
        masks = select(name, given)
    assert list(masks) == list(SITES)
    for n, (shape, _) in SITES.items():
        assert masks[n].shape == shape
        assert masks[n].dtype is torch.bool
        assert masks[n].is_cpu
    assert budget - largest_unit(name) < kept(masks) <= budget
    again = select(name, ranking(budget, tied=tied))
    assert all(torch.equal(masks[n], again[n]) for n in SITES), "equal seeds, equal masks"


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("options", [{}, "small"], ids=["default", "small"])
def test_rounds_nest_and_totals_hold(name, allocation, options):
    """What an earlier round removed stays removed, and units stay whole, down to a few entries."""
    given = UNITS.get(name, {}) if options else {}
    earlier = {n: torch.ones(shape, dtype=torch.bool) for n, (shape, _) in SITES.items()}
    draws = ranking(0).scores
    for number, budget in enumerate([TOTAL - 7, TOTAL // 2, TOTAL // 2 - 1, TOTAL // 3, 300]):
        scores = {n: torch.roll(t, number, 0) + 9 * ~earlier[n] for n, t in draws.items()}
        problem = of_scores(scores, min(budget, kept(earlier)), number, left=earlier)
        masks = select(name, problem, allocation, **given)
        assert not any((masks[n] & ~earlier[n]).any() for n in SITES)
        assert budget - largest_unit(name, **given) < kept(masks) <= budget
        INVARIANTS[name](masks, given)
        earlier = masks


def nothing(masks: dict[str, torch.Tensor], options: dict[str, int]) -> None:
    """Unstructured masks have no invariant."""


def whole(rows: int | None, columns: int | None, masks: dict[str, torch.Tensor], options: dict[str, int]):
    """Every tile is full or empty."""
    rows, columns = options.get("rows", rows), options.get("columns", columns)
    for name, (_, site) in SITES.items():
        for matrix in matrices(site, masks[name]):
            for part in matrix.split(rows, 0):
                for tile in part.split(columns or matrix.shape[1], 1):
                    assert bool(tile.all()) or not bool(tile.any()), name


def even(masks: dict[str, torch.Tensor], options: dict[str, int]) -> None:
    """The rows of a weight differ by at most one."""
    for name, (_, site) in SITES.items():
        counts = torch.cat([matrix.sum(1) for matrix in matrices(site, masks[name])])
        assert int(counts.max() - counts.min()) <= 1, name


INVARIANTS = {
    "unstructured": nothing,
    "per_row": even,
    "block": partial(whole, 16, 1),
    "channel": partial(whole, 1, None),
}
INVARIANTS |= {name: nothing for name in SEVERAL if name not in INVARIANTS}  # members that others add


@pytest.mark.parametrize("name", SEVERAL)
def test_ties_are_broken_by_the_seed_and_not_by_position(name):
    """Equal scores: kept entries are spread over both halves of every weight; seeds differ."""
    halves: dict[str, list[int]] = {n: [0, 0] for n in SITES}
    seen = []
    for seed in range(60):
        masks = select(name, ranking(TOTAL // 2, seed, tied=True), "uniform", **UNITS.get(name, {}))
        seen.append(masks)
        for n, mask in masks.items():
            half = mask.numel() // 2
            halves[n][0] += int(mask.reshape(-1)[:half].sum())
            halves[n][1] += int(mask.reshape(-1)[mask.numel() - half :].sum())
    for n, (first, second) in halves.items():
        unit = largest_unit(name, **UNITS.get(name, {}))
        spread = math.sqrt((first + second) * unit)
        assert abs(first - second) < 4 * spread, (n, first, second)
    assert not all(torch.equal(seen[0][n], seen[1][n]) for n in SITES)


@pytest.mark.parametrize("budget", [1, 59, TOTAL - 1])
def test_unstructured_keeps_the_highest(budget):
    scores = ranking(budget).scores
    masks = select("unstructured", ranking(budget))
    best = torch.cat([scores[n][m] for n, m in masks.items()])
    rest = torch.cat([scores[n][~m] for n, m in masks.items()])
    assert best.min() > rest.max()


def test_per_row_keeps_the_highest_of_every_row():
    scores = ranking(TOTAL // 3).scores
    masks = select("per_row", ranking(TOTAL // 3), "uniform")
    for name, (_, site) in SITES.items():
        pairs = zip(matrices(site, scores[name]), matrices(site, masks[name]), strict=True)
        for values, mask in pairs:
            for row, keep in zip(values, mask, strict=True):
                if 0 < int(keep.sum()) < len(row):
                    assert row[keep].min() > row[~keep].max(), name


@pytest.mark.parametrize(("name", "options"), [("block", UNITS["block"]), ("channel", {}), ("block", {})])
def test_units_are_ranked_by_their_mean(name, options):
    """Naive float64 means, unit by unit: no removed unit of a weight is better than a kept one."""
    scores = ranking(TOTAL // 2).scores
    masks = select(name, ranking(TOTAL // 2), "uniform", **options)
    rows = options.get("rows", 16 if name == "block" else 1)
    for n, (_, site) in SITES.items():
        means = {True: [], False: []}
        pairs = zip(matrices(site, scores[n]), matrices(site, masks[n]), strict=True)
        for values, mask in pairs:
            columns = options.get("columns", 1) if name == "block" else values.shape[1]
            for band, keep in zip(values.split(rows, 0), mask.split(rows, 0), strict=True):
                tiles = zip(band.split(columns, 1), keep.split(columns, 1), strict=True)
                for tile, flag in tiles:
                    means[bool(flag.all())].append(float(tile.double().mean()))
        if means[True] and means[False]:
            assert min(means[True]) >= max(means[False]), n


def test_units_of_one_size_are_exact_to_the_entry():
    """All tiles 4 x 3 of 12 entries: budgets that are multiples of 12 are met."""
    entries = {str(i): ((8, 9), Site(((8, 9),))) for i in range(5)}
    for budget in range(12, 360, 12):
        masks = select("block", ranking(budget, entries=entries), "igq", **UNITS["block"])
        assert kept(masks) == budget


def test_channel_leaves_classes_alone():
    with pytest.raises(BadInput, match=r"channel: the rows of head are the outputs of the network.*exclude"):
        select("channel", ranking(100, entries=SITES | HEAD))


def n_of_m(n: int, m: int, entries: rankings.Entries = SITES, *, tied: bool = False, **options: str):
    """Masks at the one budget that the pattern has, and the weights that stay dense."""
    dense = [
        name for name, (shape, site) in entries.items() if matrices(site, torch.zeros(shape))[0].shape[1] % m
    ]
    budget = sum(math.prod(s) if k in dense else math.prod(s) // m * n for k, (s, _) in entries.items())
    return select("n_m", ranking(budget, tied=tied, entries=entries), "uniform", n=n, m=m, **options), dense


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (4, 8), (1, 4), (3, 6), (4, 4)])
@pytest.mark.parametrize("tied", [False, True], ids=["distinct", "tied"])
def test_n_m_keeps_exactly_n_in_every_group(n, m, tied):
    masks, dense = n_of_m(n, m, tied=tied)
    assert set(masks) - set(dense) >= {"conv", "conv1d", "experts", "fused"} - (
        {"conv1d", "experts", "fused"} if m == 6 else set()
    )
    for name, (_, site) in SITES.items():
        for matrix in matrices(site, masks[name]):
            if name in dense:
                assert bool(matrix.all())
            else:
                assert set(matrix.reshape(-1, m).sum(1).tolist()) == {n}, name


def test_n_m_keeps_the_best_of_every_group():
    entries = {n: SITES[n] for n in ("conv", "transposed", "grouped", "conv1d", "experts", "alternating")}
    masks, dense = n_of_m(2, 4, entries)
    assert not dense
    scores = ranking(0, entries=entries).scores
    for name, (_, site) in entries.items():
        pairs = zip(matrices(site, scores[name]), matrices(site, masks[name]), strict=True)
        for values, mask in pairs:
            for group, keep in zip(values.reshape(-1, 4), mask.reshape(-1, 4), strict=True):
                assert set(group.argsort(descending=True)[:2].tolist()) == set(
                    keep.nonzero().flatten().tolist()
                )


def test_n_m_groups_run_along_the_input_axis_of_convolutions():
    """Channels last: the four inputs at one place of the kernel are a group."""
    scores = torch.zeros(1, 4, 3, 3)
    scores[0, 1], scores[0, 3] = 2.0, 1.0
    entries = {"conv": ((1, 4, 3, 3), Site(((1, 4, 3, 3),), Layout(), "conv"))}
    masks = select("n_m", of_scores({"conv": scores}, 18, entries=entries), "uniform")
    assert masks["conv"].sum((2, 3)).tolist() == [[0, 9, 0, 9]]


def test_n_m_says_what_sparsity_it_has():
    with pytest.raises(
        BadInput, match=r"the pattern 2:4 keeps \d+ of these \d+ entries \(stem and 1 more stay"
    ) as e:
        select("n_m", ranking(TOTAL // 2), "uniform")
    named = float(str(e.value).partition("expected sparsity ")[2].partition(",")[0])
    budget = round(TOTAL * (1 - named))
    assert kept(select("n_m", ranking(budget), "uniform")) == budget
    with pytest.raises(
        BadInput, match=r"keeps 50 of these 100 entries: expected sparsity 0\.5, got one that"
    ):
        select("n_m", ranking(51, entries={"linear": SITES["linear"]}), "uniform")


def test_n_m_refuses_on_demand_and_bad_options():
    with pytest.raises(BadInput, match=r"stem has 27 inputs, expected a multiple of 4; exclude it, or"):
        n_of_m(2, 4, indivisible="refuse")
    with pytest.raises(BadInput, match="expected n <= m, got n = 5 and m = 4"):
        select("n_m", ranking(100), "uniform", n=5, m=4)


@pytest.mark.parametrize("name", patterns.names())
def test_relabelled_units_are_kept_as_before(name):
    """Rows in another order, the mask in that order: no unit is kept for its place."""
    entries = {"linear": ((16, 16), Site(((16, 16),)))}
    options = {"rows": 1} if name in {"block", "channel"} else {}
    scores = ranking(0, 3, entries=entries).scores["linear"]
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    first, second = (
        select(name, of_scores({"linear": s}, 128, entries=entries), "uniform", **options)
        for s in (scores, scores[order])
    )
    assert torch.equal(first["linear"][order], second["linear"])
