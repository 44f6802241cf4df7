"""The cards of the shipped recipes are what their reports say, and the reports those of the recipes."""

from __future__ import annotations

import re

import pytest
import yaml

from sigprune.recipe.recipe import load_recipe, parse_recipe
from sigprune.report.record import Report
from tests.model_cards import CARDS, RECIPES, REPORTS, shown


@pytest.mark.parametrize("name", RECIPES)
def test_a_card_is_what_its_report_says(name: str) -> None:
    """If it is not: ``python -m tests.model_cards`` writes it again."""
    report = Report.read(REPORTS / f"{name}.json")
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert text == shown(report, name)
    for figure in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (CARDS / figure).is_file(), figure


@pytest.mark.filterwarnings("ignore:most_:DeprecationWarning")  # reports keep the keys they were written with
@pytest.mark.parametrize("name", RECIPES)
def test_a_report_is_that_of_the_recipe_as_it_stands(name: str) -> None:
    """The bounds of measuring may be others: they choose what is measured, not what is made."""
    report = Report.read(REPORTS / f"{name}.json")
    kept = report.facts["recipe"]
    bounds = {"most_gib", "max_memory_gib", "max_seconds"}
    measure = {key: value for key, value in kept["measure"].items() if key not in bounds}
    assert parse_recipe({**kept, "measure": measure}).digest == load_recipe(name).digest
    assert "seconds" not in report.data["timing"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_front_matter_is_what_the_hub_expects(name: str) -> None:
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] in {"timm", "transformers", "sigprune"}
    assert {"sigprune", "sparse"} <= set(front["tags"])
    assert front["pipeline_tag"] == "image-classification"
    (result,) = front["model-index"][0]["results"]
    assert 0.5 < result["metrics"][0]["value"] <= 1


def test_nothing_else_lies_there() -> None:
    assert sorted(path.stem for path in CARDS.glob("*.md")) == RECIPES
    used = {
        figure
        for path in CARDS.glob("*.md")
        for figure in re.findall(r"\]\(figures/([^)]+)\)", path.read_text())
    }
    assert {path.name for path in (CARDS / "figures").iterdir()} == used
