"""The contract of the allocations, over every member: exact sums, capacities, floors, unbiased ties."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sigprune.base.errors import BadInput, CheckpointError
from sigprune.checkpoint.save import save
from sigprune.families.allocations import allocations
from sigprune.families.allocations._shared import share
from sigprune.models.opening import describe
from sigprune.pruning.choose import apply_
from sigprune.values.layout import Layout
from sigprune.values.mask import Mask
from sigprune.values.ranking import Ranking, Site
from tests.reference import allocations as reference
from tests.support.rankings import ranking as made

SITES = {
    "stem": ((8, 3, 3, 3), Site(((8, 3, 3, 3),), Layout(), "conv")),
    "wide": ((64, 64), Site(((64, 64),))),
    "narrow": ((2, 50), Site(((2, 50),))),
    "bias": ((5,), Site(((5,),), None, "bias")),
    "one": ((1, 1), Site(((1, 1),), Layout(), "head")),
}
SIZES = {name: math.prod(shape) for name, (shape, _) in SITES.items()}
TOTAL = sum(SIZES.values())
FLOORED = [name for name in allocations.names() if "floor" in allocations.read(name).options]


def ranking(budget: int, seed: int = 0, tied: bool = False, removed: float = 0.0) -> Ranking:
    return made(budget, seed, tied=tied, removed=removed, entries=SITES)


class Flat(nn.Module):
    """A module with given parameters, so that a checkpoint has a mask for each."""

    def __init__(self) -> None:
        super().__init__()
        for name, (shape, _) in SITES.items():
            self.register_parameter(name, nn.Parameter(torch.ones(shape)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """A folder whose masks keep a third of every weight but one, which is empty."""
    view = describe(nn.Sequential(nn.Linear(2, 2)))
    module = Flat()
    keep = {n: torch.arange(SIZES[n]).reshape(s) % 3 == 0 for n, (s, _) in SITES.items()}
    keep["narrow"].fill_(False)
    mask = Mask(keep)
    mask.apply_(dict(module.named_parameters()))
    folder = tmp_path_factory.mktemp("mask") / "of_flat"
    save(folder, replace(view, module=module), mask)
    return str(folder)


def options(name: str, checkpoint: str) -> dict[str, str]:
    return {"checkpoint": checkpoint} if name == "from_mask" else {}


@pytest.mark.parametrize("name", allocations.names())
@pytest.mark.parametrize("tied", [False, True], ids=["distinct", "tied"])
@pytest.mark.parametrize("budget", [0, 1, 2, 7, TOTAL // 10, TOTAL // 2, TOTAL - 1, TOTAL])
def test_contract(name, tied, budget, checkpoint):
    given = options(name, checkpoint) | ({"head": 0.0} if name == "uniform_plus" else {})
    counts = allocations.get(name).allocate(ranking(budget, tied=tied), **given)
    assert list(counts) == list(SITES)
    assert sum(counts.values()) == budget
    assert all(type(k) is int and 0 <= k <= SIZES[n] for n, k in counts.items())
    again = allocations.get(name).allocate(ranking(budget, tied=tied), **given)
    assert counts == again, "equal seeds, equal counts"


@pytest.mark.parametrize("name", allocations.names())
def test_capacities_are_respected(name, checkpoint):
    problem = ranking(budget=1000, removed=0.7)
    counts = allocations.get(name).allocate(problem, **options(name, checkpoint))
    assert sum(counts.values()) == 1000
    assert all(k <= problem.capacity[n] for n, k in counts.items())


@pytest.mark.parametrize("name", FLOORED)
@pytest.mark.parametrize("removed", [0.0, 0.3])
def test_floors_hold_and_sums_stay_exact(name, removed):
    problem = ranking(budget=600, removed=removed)
    counts = allocations.get(name).allocate(problem, floor=0.1)
    assert sum(counts.values()) == 600
    assert all(k >= min(math.ceil(0.1 * SIZES[n]), problem.capacity[n]) for n, k in counts.items())


@pytest.mark.parametrize("name", FLOORED)
def test_an_infeasible_floor_is_refused(name):
    with pytest.raises(
        BadInput, match=r"a floor of 0.5 in every weight keeps .*set sparsity to at most 0\.49"
    ):
        allocations.get(name).allocate(ranking(budget=600), floor=0.5)


def test_pooled_equals_a_full_sort():
    problem = ranking(budget=900)
    assert allocations.get("pooled").allocate(problem) == reference.pooled(problem.scores, 900)


@pytest.mark.parametrize("floor", [0.05, 0.15, 0.2])
def test_pooled_with_a_floor_is_the_best_that_keeps_it(floor):
    """First every weight's own best up to the floor, then the best of all others."""
    problem = ranking(budget=1100)
    for name in ("stem", "narrow", "bias"):
        problem.scores[name].mul_(0.1)
    counts = allocations.get("pooled").allocate(problem, floor=floor)
    assert counts == reference.pooled(problem.scores, 1100, floor)


def test_pooled_ties_go_to_no_weight_in_particular():
    """All scores equal: each weight keeps its share, whatever its position (naive top-k keeps the first)."""
    kept = {name: 0 for name in SITES}
    for seed in range(40):
        for name, count in allocations.get("pooled").allocate(ranking(TOTAL // 10, seed, tied=True)).items():
            kept[name] += count
    for name, size in SIZES.items():
        mean = 40 * size * (TOTAL // 10) / TOTAL
        assert abs(kept[name] - mean) < 5 * math.sqrt(mean) + 1, name


def test_the_fractions_of_rounding_go_to_no_weight_in_particular():
    """Ten equal weights, one entry to keep: another weight for another seed."""
    entries = {str(i): ((4, 4), Site(((4, 4),))) for i in range(10)}
    winners = set()
    for seed in range(60):
        counts = allocations.get("uniform").allocate(made(1, seed, entries=entries))
        winners |= {name for name, count in counts.items() if count}
    assert winners == set(entries)


def test_uniform_keeps_one_density():
    counts = allocations.get("uniform").allocate(ranking(TOTAL // 4))
    assert all(abs(k - SIZES[n] / 4) < 1 for n, k in counts.items())


def test_erk_closed_form():
    """density_l = min(1, eps * sum(dims) / prod(dims)), with the one eps that meets the budget."""
    counts = allocations.get("erk").allocate(ranking(TOTAL // 5))
    ideal = reference.erk({n: site.blocks[0] for n, (_, site) in SITES.items()}, SIZES, TOTAL // 5)
    assert all(abs(counts[n] - ideal[n]) < 1 for n in SITES)
    assert counts["bias"] == 5, "capped at all of it"


@pytest.mark.parametrize("budget", [20, TOTAL // 5, TOTAL - 100])
def test_igq_has_one_force(budget):
    counts = allocations.get("igq").allocate(ranking(budget))
    ideal = reference.igq(SIZES, budget)
    assert all(abs(counts[n] - ideal[n]) < 1 for n in SITES)
    densities = [counts[n] / SIZES[n] for n in ("bias", "narrow", "stem", "wide")]
    assert densities == sorted(densities, reverse=True), "large weights are compressed more"


PLUS = {
    "stem": ((8, 3, 3, 3), Site(((8, 3, 3, 3),), Layout(), "conv", stem=True)),
    "body": ((64, 32), Site(((64, 32),))),
    "second": ((16, 8, 3, 3), Site(((16, 8, 3, 3),), Layout(), "conv")),
    "head": ((10, 33), Site(((10, 33),), Layout(), "head")),
}


@pytest.mark.parametrize("density", [0.1, 0.15, 0.5, 0.9])
def test_uniform_plus_against_its_definition(density):
    sizes = {n: math.prod(shape) for n, (shape, _) in PLUS.items()}
    budget = round(density * sum(sizes.values()))
    counts = allocations.get("uniform_plus").allocate(made(budget, entries=PLUS))
    ideal = reference.uniform_plus(sizes, budget, stem="stem", head="head")
    assert sum(counts.values()) == budget
    assert counts["stem"] == sizes["stem"], "the first convolution stays dense"
    assert counts["head"] >= 0.2 * sizes["head"] or density > 0.2
    assert all(abs(counts[n] - ideal[n]) < 1 for n in PLUS), (counts, ideal)


def test_uniform_plus_refuses_what_it_cannot_keep():
    with pytest.raises(BadInput, match=r"a dense first convolution with 0\.2 of the classifier keeps 282 of"):
        allocations.get("uniform_plus").allocate(made(100, entries=PLUS))


def test_from_mask_keeps_what_the_checkpoint_kept(checkpoint):
    expected = {n: 0 if n == "narrow" else -(-size // 3) for n, size in SIZES.items()}
    counts = allocations.get("from_mask").allocate(ranking(sum(expected.values())), checkpoint=checkpoint)
    assert counts == expected
    half = allocations.get("from_mask").allocate(ranking(sum(expected.values()) // 2), checkpoint=checkpoint)
    assert all(abs(half[n] - expected[n] / 2) <= 1 for n in SITES)


def test_from_mask_names_what_is_missing(checkpoint, tmp_path):
    other = {**SITES, "new": ((3, 3), Site(((3, 3),)))}
    with pytest.raises(
        BadInput,
        match=r"has no mask of new \(did you mean one\?\); take a checkpoint of the same architecture",
    ):
        allocations.get("from_mask").allocate(made(10, entries=other), checkpoint=checkpoint)
    with pytest.raises(CheckpointError, match="holds neither"):
        allocations.get("from_mask").allocate(ranking(10), checkpoint=str(tmp_path))
    for bad in (b"", b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 40, b"\x08\0\0\0\0\0\0\0\xff\xfe{}{}{}..."):
        (tmp_path / "model.sparse.safetensors").write_bytes(bad)
        with pytest.raises(CheckpointError, match=r"model\.sparse\.safetensors: "):
            allocations.get("from_mask").allocate(ranking(10), checkpoint=str(tmp_path))


def test_a_dense_checkpoint_has_no_ratios(tmp_path: Path):
    view = describe(nn.Linear(2, 2))
    apply_(view, Mask({}))
    save(tmp_path / "dense", view, Mask({}))
    with pytest.raises(BadInput, match=r"has no mask of stem \(it has none of any weight\)"):
        allocations.get("from_mask").allocate(ranking(10), checkpoint=str(tmp_path / "dense"))


def test_what_no_ratio_asks_for_is_shared_by_size():
    """Beyond the weights with a ratio, the rest goes to the others in proportion to what is free there."""
    entries = {n: ((size,), Site(((size, 1),))) for n, size in {"a": 100, "b": 40, "c": 20}.items()}
    counts = share(made(130, entries=entries), {"a": 1.0, "b": 0.0, "c": 0.0})
    assert counts == {"a": 100, "b": 20, "c": 10}


def test_erk_gives_projections_that_share_a_matrix_what_they_get_apart():
    """Queries of 64 rows, keys and values of 8, beside an output projection."""
    fused = {
        "qkv": ((80, 64), Site(((64, 64), (8, 64), (8, 64)), Layout(fused=(64, 8, 8)))),
        "o": ((64, 64), Site(((64, 64),))),
    }
    apart = {"q": (64, 64), "k": (8, 64), "v": (8, 64), "o": (64, 64)}
    erk = allocations.get("erk").allocate
    together = erk(made(900, entries=fused))
    alone = erk(made(900, entries={name: (shape, Site((shape,))) for name, shape in apart.items()}))
    assert abs(together["qkv"] - alone["q"] - alone["k"] - alone["v"]) <= 2


@pytest.mark.parametrize("name", ["pooled", "uniform"])
def test_a_floor_of_the_density_itself_is_kept(name):
    """0.07 · 100 is 7.000000000000001 in floating point."""
    entries = {"a": ((10, 10), Site(((10, 10),)))}
    assert allocations.get(name).allocate(made(7, entries=entries), floor=0.07) == {"a": 7}
    with pytest.raises(BadInput, match=r"set sparsity to at most 0\.44"):
        allocations.get(name).allocate(made(55, entries=entries), floor=0.56)
