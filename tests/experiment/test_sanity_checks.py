"""Sanity checks: what each variant changes, what it keeps, and what the table says of it."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import get_args

import pytest
import torch

from sigprune.base.errors import BadInput, FindingFailed, UnknownName
from sigprune.base.progress import SilentProgress, ignore
from sigprune.base.rng import generator
from sigprune.experiment.pipeline import mask_for
from sigprune.experiment.runner import run
from sigprune.experiment.sanity_checks import (
    _CORRUPTIONS,
    AS_IS,
    VARIANTS,
    Outcome,
    _chance,
    _choose,
    _permuted,
    _row,
    check,
    skip_reason,
)
from sigprune.experiment.setup import open_setting
from sigprune.recipe.recipe import Recipe, parse_recipe
from sigprune.recipe.sections import Check
from sigprune.values.mask import Mask
from tests.support.sharing import shared


def recipe(**prune: object) -> Recipe:
    return parse_recipe({
        "model": {"ref": "torch:tests.support.networks.mlp", "args": {"widths": [64, 32, 32, 10]}},
        "prune": {"sparsity": 0.8, "batches": 4, **prune},
        "train": {"epochs": 1, "lr": 0.02},
        "isometry": {"name": "lbfgs", "steps": 50},
        "measure": {"examples": 2},
        "baselines": [],
    })


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> dict[str, dict[str, object]]:
    def make(place: Path) -> None:
        found = {str(row["variant"]): row for row in check(recipe(), SilentProgress())}
        (place / "rows.pickle").write_bytes(pickle.dumps(found))

    return pickle.loads((shared(tmp_path_factory, "variants", make) / "rows.pickle").read_bytes())


def test_recipes_and_the_command_know_the_same_variants():
    assert (AS_IS, *get_args(Check)) == tuple(VARIANTS)


def test_every_variant_is_carried_out(rows):
    assert tuple(rows) == tuple(VARIANTS)
    for row in rows.values():
        assert row["kept"] == rows[AS_IS]["kept"]
        assert 0 < row["test_accuracy"] <= 1
        assert math.isnan(row["accuracy_std"])
        assert not row["stopped"]


def test_overlap_tells_what_a_variant_does_to_the_mask(rows):
    overlap = {name: row["overlap"] for name, row in rows.items()}
    assert overlap[AS_IS] == overlap["re-initialised"] == 1
    for name in ("shuffled", "random"):  # as independent masks of the same layer densities
        assert overlap[name] == pytest.approx(rows[name]["chance"], abs=0.03)
    assert overlap["inverted"] < 0.5 * rows["inverted"]["chance"]
    for name in _CORRUPTIONS:
        assert rows[name]["chance"] < overlap[name] < 1


def test_other_initial_values_are_other_values(rows):
    assert rows["re-initialised"]["mean_jsv"] != rows[AS_IS]["mean_jsv"]
    assert rows["re-initialised"]["test_accuracy"] != rows[AS_IS]["test_accuracy"]


def test_permuting_keeps_the_counts_and_moves_the_entries():
    mask = Mask({"a": torch.arange(600).reshape(20, 30) % 5 == 0, "b": torch.arange(40) < 30})
    moved = _permuted(mask, 0)
    assert moved.counts() == mask.counts()
    assert mask.jaccard(moved) == pytest.approx(_chance(mask, moved), abs=0.1)
    assert _permuted(mask, 0) == moved
    assert moved != mask
    assert moved != _permuted(mask, 1)


def test_the_chance_of_overlap_is_that_of_independent_masks():
    one, other = Mask({"a": torch.arange(100_000) < 30_000}), Mask({"a": torch.arange(100_000) < 60_000})
    found = _permuted(one, 0).jaccard(_permuted(other, 1))
    assert _chance(one, other) == pytest.approx(0.18 / 0.72)  # 0.3 · 0.6 both, 0.3 + 0.6 - 0.18 either
    assert found == pytest.approx(_chance(one, other), abs=0.01)


def test_corrupted_examples():
    batches = open_setting(recipe()).batches("prune", 256, 64)
    (images, labels) = next(iter(batches))
    for name, corrupt in _CORRUPTIONS.items():
        changed = corrupt(batches, generator(0, "check", name))
        (other, others) = next(iter(changed))
        assert len(changed) == (2 if name == "half the data" else 4)
        if name == "random labels":
            assert torch.equal(other, images)
            assert not torch.equal(others, labels)
            assert torch.equal(changed.labels.sort().values, batches.labels.sort().values)
        if name == "shuffled pixels":
            assert not torch.equal(other, images)
            assert torch.equal(other.sort(dim=1).values, images.sort(dim=1).values)  # image by image
            assert torch.equal(others, labels)


@pytest.mark.parametrize(
    ("prune", "skipped"),
    [
        ({"score": "magnitude"}, {"random labels", "shuffled pixels", "half the data"}),
        pytest.param({"objective": "uniform"}, {"random labels"}, marks=pytest.mark.slow),
    ],
)
def test_variants_that_change_nothing_are_left_out(prune, skipped):
    rows = check(recipe(**prune), SilentProgress(), variants=[*_CORRUPTIONS])
    assert {row["variant"] for row in rows if "skipped" in row} == skipped
    assert all(row["skipped"] and row["kept"] is None for row in rows if "skipped" in row)


@pytest.mark.slow
def test_means_over_seeds(rows):
    other = check(recipe().model_copy(update={"seed": 1}), SilentProgress(), variants=["shuffled"])[1]
    alone = [rows["shuffled"], other]
    (_, row) = check(recipe(), SilentProgress(), variants=["shuffled"], seeds=2)
    accuracies = [one["test_accuracy"] for one in alone]
    assert row["test_accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert row["accuracy_std"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / math.sqrt(2))


def test_a_failed_finding_is_told_and_others_go_on():
    bounds = parse_recipe({"model": {"ref": "x"}, "verify": {"mean_jsv": {"low": 0.1, "required": True}}})
    strict = recipe().model_copy(update={"isometry": None, "verify": bounds.verify})
    rows = {row["variant"]: row for row in check(strict, SilentProgress(), variants=["inverted"])}
    assert not rows[AS_IS]["stopped"]
    assert "mean_jsv" in rows["inverted"]["stopped"]
    assert math.isnan(rows["inverted"]["test_accuracy"])


def test_seeds_that_were_stopped_are_left_out_of_the_means():
    outcomes = [
        Outcome(Mask({"a": torch.ones(4) > 0}), 1.0, 1.0, 0.5, 0.0, accuracy, stopped)
        for accuracy, stopped in ((math.nan, "FAILED: mean_jsv"), (0.5, ""), (0.7, ""))
    ]
    row = _row("shuffled", outcomes)
    assert row["test_accuracy"] == pytest.approx(0.6)
    assert row["accuracy_std"] == pytest.approx(0.1 * math.sqrt(2))
    assert row["stopped"] == "FAILED: mean_jsv"
    assert math.isnan(_row("shuffled", outcomes[:2])["accuracy_std"])


def test_a_variant_that_diverges_is_told():
    wild = recipe().model_copy(update={"train": recipe().train.model_copy(update={"lr": 1e30})})
    rows = check(wild, SilentProgress(), variants=["shuffled"])
    assert all("loss" in row["stopped"] for row in rows)


def test_a_network_that_is_no_good_at_all_is_refused():
    """Not as a row of a table: nothing was changed yet."""
    loud = parse_recipe({
        "model": {"ref": "torch:torch.nn.Linear", "args": {"in_features": 64, "out_features": 10}},
        "init": {"method": {"name": "kaiming", "gain": 1e38}},
    })
    with pytest.raises(FindingFailed, match="finite_output"):
        check(loud, SilentProgress(), variants=["shuffled"])


@pytest.mark.parametrize("score", ["synflow", "force"])
def test_inverted_masks_keep_as_much_of_every_weight(score):
    """Also those of scores that work in rounds: rounds of their own would drift to other layers."""
    given = recipe(score={"name": score}, schedule={"name": "exponential", "rounds": 5})
    setting = open_setting(given)
    found = mask_for(setting, ignore)
    low = _choose("inverted", setting, found.mask, ignore)
    assert low.mask.counts() == found.mask.counts()
    assert low.mask.jaccard(found.mask) < _chance(low.mask, found.mask)


def test_random_masks_have_the_pattern_and_shuffled_ones_are_left_out():
    given = recipe(sparsity=0.5, score="magnitude", pattern="n_m", allocation="uniform")
    setting = open_setting(given)
    found = mask_for(setting, ignore)
    other = _choose("random", setting, found.mask, ignore)
    assert other.mask != found.mask
    assert all((kept.reshape(-1, 4).sum(1) == 2).all() for kept in other.mask.keep.values())
    assert "n_m would be lost" in skip_reason(given, "shuffled")


@pytest.mark.parametrize(
    ("prune", "reason"),
    [
        ({"pattern": "n_m", "allocation": "uniform"}, "expected sparsity 0.5"),
        ({"pattern": "channel"}, "are the outputs of the network"),
        ({"allocation": {"name": "erk", "floor": 0.5}}, "set sparsity to at most 0.5"),
    ],
)
def test_masks_that_cannot_be_are_refused_before_anything_is_measured(prune, reason):
    with pytest.raises(BadInput, match=reason):
        open_setting(recipe(**prune))


def test_bad_input():
    with pytest.raises(UnknownName, match="unknown variant 'shufled'; did you mean shuffled"):
        check(recipe(), SilentProgress(), variants=["shufled"])
    with pytest.raises(BadInput, match="at least one seed, got 0"):
        check(recipe(), SilentProgress(), seeds=0)


def test_a_run_reports_the_checks_of_its_recipe(tmp_path, rows):
    report = run(recipe().model_copy(update={"checks": ("shuffled", "inverted")}), tmp_path / "run")
    told = {one["variant"]: one for one in report.facts["checks"]}
    assert set(told) == {AS_IS, "shuffled", "inverted"}
    assert told["inverted"]["overlap"] == rows["inverted"]["overlap"]
    assert told[AS_IS]["test_accuracy"] == report.test_accuracy
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert f"| inverted | {VARIANTS['inverted']} |" in card


def test_balanced_batches_take_the_classes_by_turns():
    given = recipe(balanced=True, batches=1, batch_size=40)
    setting = open_setting(given)
    ((_, labels),) = setting.batches("prune", 40, 40)
    assert torch.bincount(labels).tolist() == [4] * 10
    ((_, others),) = setting.batches("measure", 40, 40)
    assert torch.bincount(others).tolist() != [4] * 10
