"""Exact and estimated spectra in reports, cards, figures and on the command line."""

from __future__ import annotations

import io
import math

import pytest
import torch
from rich.console import Console

from sigprune.cli.tables import print_signal
from sigprune.propagation.measurement import measure
from sigprune.report.figures import draw
from sigprune.report.model_card import card
from sigprune.report.record import Report, histogram, number
from sigprune.report.run_record import Measurement
from sigprune.report.serialize import of_measurement
from tests.support.matrices import diagonal_operator

VALUES = torch.linspace(0.01, 2, 300, dtype=torch.float64).flip(0).expand(2, -1)


@pytest.fixture(params=["exact", "lanczos", "moments"])
def facts(request):
    return of_measurement(Measurement("after init", measure(diagonal_operator(VALUES), request.param)))


def test_facts_say_how_they_were_found(facts):
    kinds = {"exact: all 300 values": "exact", "moments from 64 probes": "moments"}
    assert facts["kind"] == kinds.get(facts["method"], "quadrature")
    assert facts["summary"]["count"] == 600
    assert facts["summary"]["mean_square"] == pytest.approx(float(VALUES.square().mean()), rel=0.2)


def test_nodes_count_as_often_as_the_values_that_they_stand_for(facts):
    counts = facts["histogram"]["counts"]
    total = {"exact": 600, "quadrature": 600, "moments": 0}[facts["kind"]]
    assert abs(sum(counts) - total) <= len(counts) / 2
    exact = histogram(VALUES.reshape(-1).tolist())
    if facts["kind"] == "quadrature":  # half of the spectrum lies above 1, whatever the probes are
        above = sum(c for c, low in zip(counts, facts["histogram"]["edges"], strict=False) if low >= 1)
        assert above == pytest.approx(300, abs=90)
        assert facts["histogram"]["edges"][-1] == exact["edges"][-1]


def test_weights_are_counts():
    assert histogram([1.0, 2.0], [3, 4])["counts"] == histogram([1.0] * 3 + [2.0] * 4)["counts"]
    assert sum(histogram([1.0, math.nan], [3, 4])["counts"]) == 3
    assert sum(histogram([])["counts"]) == 0


def test_reports_hold_estimates(facts, data, tmp_path):
    data["signal"] = [facts]
    report = Report(data)
    told = report.facts["signal"][0]["summary"]
    assert (told["condition"] == "nan") == (facts["kind"] != "exact")
    assert number(told["gap"]) == facts["summary"]["gap"]
    assert draw(report, tmp_path)[0] == "figures/singular_values.png"
    assert f"Method: {facts['method']}." in card(report)


def test_tables_show_what_is_known(facts):
    console = Console(file=io.StringIO(), width=200)
    print_signal(console, [facts])
    text = console.file.getvalue()
    assert "nan" not in text
    assert (f"estimated by {facts['method']}" in text) == (facts["kind"] != "exact")
    known = {"exact": "condition", "quadrature": "mean_error", "moments": "gap_error"}[facts["kind"]]
    assert known in text
