"""The model cards of the shipped recipes, and the reports that they are made of.

``python -m tests.model_cards [NAME ...]`` carries the recipes out (minutes; Fashion-MNIST is needed) and
writes ``model_cards/NAME.md`` with its figures, and ``tests/fixtures/reports/NAME.json``. Tests make the
cards again from the reports, and compare.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

from sigprune.experiment.runner import run
from sigprune.report.model_card import card
from sigprune.report.record import Report

ROOT = Path(__file__).parents[1]
CARDS, REPORTS = ROOT / "model_cards", ROOT / "tests" / "fixtures" / "reports"
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


def shown(report: Report, name: str) -> str:
    """The card as it stands among others: its figures lie in a folder of its own, no repository is named."""
    return card(report).replace("](figures/", f"](figures/{name}-")


def main(names: list[str]) -> None:
    """Carry the recipes out and write what they tell."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    (CARDS / "figures").mkdir(parents=True, exist_ok=True)
    for name in names:
        with tempfile.TemporaryDirectory() as home:
            report = run(name, Path(home) / "run")
            facts = {key: value for key, value in report.data.items() if key != "timing"} | {"timing": {}}
            text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
            (REPORTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
            for figure in (Path(home) / "run" / "figures").iterdir():
                shutil.copyfile(figure, CARDS / "figures" / f"{name}-{figure.name}")
        (CARDS / f"{name}.md").write_text(
            shown(Report.read(REPORTS / f"{name}.json"), name), encoding="utf-8"
        )


if __name__ == "__main__":
    main(sys.argv[1:] or RECIPES)
