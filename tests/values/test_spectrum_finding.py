"""Summaries of spectra; findings and their verdicts."""

from __future__ import annotations

import math

import pytest
import torch

from sigprune.base.errors import FindingFailed
from sigprune.values.finding import Finding, Findings
from sigprune.values.spectrum import Spectrum


def test_summary_pools_examples():
    summary = Spectrum(torch.tensor([[4.0, 2.0], [3.0, 1.0]])).summary()
    assert (summary.count, summary.mean, summary.min, summary.max) == (4, 2.5, 1.0, 4.0)
    assert summary.condition == 4.0, "max and min over all examples, as the paper pools them"
    assert summary.median == 2.5
    assert summary.std == pytest.approx(math.sqrt(1.25))


def test_a_lost_direction_has_infinite_condition():
    assert Spectrum(torch.tensor([[1.0, 0.0]])).summary().condition == math.inf


def test_verdicts():
    good = Finding("a", "x", 1.0, 0.5, 2.0, required=True)
    warning = Finding("b", "x", 3.0, 0.5, 2.0, remedy="try y")
    lost = Finding("c", "layer3", math.nan, 0.5, 2.0, required=True, remedy="try z")
    assert (good.ok, warning.ok, lost.ok) == (True, False, False)
    assert str(warning) == "warning: b is 3 (x), expected 0.5 to 2; try y"
    Findings((good, warning)).require()
    assert Findings((good, warning)).ok
    with pytest.raises(FindingFailed, match=r"^FAILED: c is nan \(layer3\), expected 0.5 to 2; try z$"):
        (Findings((good, warning)) + Findings((lost,))).require()
