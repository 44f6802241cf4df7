"""Warnings about the experiment itself, in its report and on the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from sigprune.experiment.runner import run
from sigprune.recipe.recipe import parse_recipe


def pooled() -> nn.Module:
    """A convolution, a mean over places, a classifier: for images of any size."""
    places = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), places, nn.Flatten(), nn.Linear(4, 10))


@pytest.mark.parametrize(("size", "warned"), [(1, True), (8, False)])
def test_images_of_which_little_is_left_are_a_warning(size: int, warned: bool, tmp_path: Path) -> None:
    recipe = parse_recipe({
        "model": {"ref": "torch:tests.experiment.test_findings.pooled"},
        "data": {"size": size},
        "measure": {"examples": 2},
        "prune": {"sparsity": 0.5, "score": "magnitude"},
        "isometry": None,
        "baselines": [],
        "train": {"epochs": 0},
    })
    report = run(recipe, tmp_path / "out")
    found = [finding for finding in report.failed if finding["name"] == "image_detail"]
    assert bool(found) is warned
    if warned:
        assert found[0]["where"] == "images of 8 x 8 pixels shrunk to 1 x 1"
        assert "image_detail" in (tmp_path / "out" / "README.md").read_text()
