"""Summaries of spectra; findings and their verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sigprune.base.errors import FindingFailed
from sigprune.base.rng import generator
from sigprune.values.finding import Finding, Findings
from sigprune.values.spectrum import Estimate, Spectrum


def test_summary_pools_examples():
    summary = Spectrum(torch.tensor([[4.0, 2.0], [3.0, 1.0]])).summary()
    assert (summary.count, summary.mean, summary.min, summary.max) == (4, 2.5, 1.0, 4.0)
    assert summary.condition == 4.0, "max and min over all examples, as the paper pools them"
    assert summary.median == 2.5
    assert summary.std == pytest.approx(math.sqrt(1.25))


def test_quantiles_are_those_of_numpy():
    values = torch.rand(3, 41, dtype=torch.float64, generator=generator(0, "test")).sort(descending=True)[0]
    at = (0.0, 0.01, 0.25, 0.5, 0.77, 1.0)
    expected = np.quantile(values.numpy(), at, method="inverted_cdf")
    np.testing.assert_allclose(Spectrum(values).quantiles(at), expected)
    ten = Spectrum(torch.arange(10.0, 0, -1)[None])
    assert ten.quantiles((0.8,)) == (8.0,), "eight times 0.1 is less than 0.8 in floating point"
    repeated = Spectrum(torch.tensor([[3.0, 1.0]]), "quadrature", torch.tensor([[0.25, 0.75]]))
    assert repeated.quantiles((0.5, 0.75, 0.76)) == (1.0, 1.0, 3.0)
    assert all(map(math.isnan, Spectrum(torch.empty(2, 0), "moments").quantiles()))


def test_flatness_is_det_over_trace():
    values = torch.tensor([[4.0, 2.0, 1.0]], dtype=torch.float64)
    assert Spectrum(values).summary().flatness == pytest.approx(4 / 7)  # 64^(1/3) / (21 / 3)
    assert Spectrum(5 * values).summary().flatness == pytest.approx(4 / 7), "whatever the scale"
    assert Spectrum(torch.full((2, 3), 7.0)).summary().flatness == pytest.approx(1)
    assert Spectrum(torch.tensor([[1.0, 0.0]])).summary().flatness == 0


def test_the_level_is_the_mean_or_the_root_mean_square():
    assert Spectrum(torch.tensor([[3.0, 1.0]])).summary().level == 2
    known = Spectrum(torch.empty(1, 0), "moments", count=4, mean_square=Estimate(9.0, 0.1)).summary()
    assert (known.level, known.count) == (3.0, 4)
    assert math.isnan(known.mean)


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
