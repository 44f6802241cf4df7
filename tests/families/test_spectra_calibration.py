"""Error bars of estimates: the truth lies within two standard errors for about 95 % of the seeds."""

from __future__ import annotations

import math

import pytest
import torch

from sigprune.base.rng import generator
from sigprune.families.spectra import spectra
from tests.support.grids import thinned
from tests.support.matrices import dense_operator, diagonal_operator, prescribed

SEEDS = 200
SPECTRA = {
    "rising": torch.linspace(0.01, 2, 300, dtype=torch.float64),
    "decaying": 2 * torch.exp(-torch.arange(300, dtype=torch.float64) / 60),
    "spread": 1.5 * torch.logspace(0, -3, 200, dtype=torch.float64),
}
METHODS = {
    "moments": ("moments", {"probes": 24}),
    "many probes": ("moments", {"probes": 100}),
    "lanczos": ("lanczos", {"steps": 25}),
    "short runs": ("lanczos", {"steps": 8, "probes": 4}),
}


@pytest.mark.parametrize(("method", "spectrum"), thinned([*METHODS], [*SPECTRA], about=4))
def test_two_standard_errors_hold_the_truth(method, spectrum):
    (name, options), values = METHODS[method], SPECTRA[spectrum]
    operator = diagonal_operator(values[None])
    found = [spectra.get(name).measure(operator, generator(i, "test"), **options) for i in range(SEEDS)]
    truth = {
        "mean": float(values.mean()),
        "mean_square": float(values.square().mean()),
        "gap": float((values**2 - 1).square().mean()),
    }
    if name == "moments":
        assert all(math.isnan(one.mean.value) for one in found)
        del truth["mean"]
    for what, value in truth.items():
        pairs = [(getattr(one, what).value, getattr(one, what).error) for one in found]
        inside = sum(abs(estimate - value) <= 2 * error for estimate, error in pairs) / SEEDS
        # half the distance of two rules is no standard error but a bound: short runs err on the safe side
        safe = method == "short runs" and what == "mean"
        assert 0.9 <= inside <= (1.0 if safe else 0.99), what


def test_examples_share_their_errors():
    """Four times the examples, half the error; values of different examples are pooled."""
    values = torch.stack([SPECTRA["rising"], 2 * SPECTRA["rising"]] * 2)
    truth = float(values.square().mean())
    for name, options in (("moments", {"probes": 24}), ("lanczos", {"steps": 12})):
        method = spectra.get(name)
        all_four = method.measure(diagonal_operator(values), generator(0, "test"), **options)
        one = method.measure(diagonal_operator(values[1:2]), generator(0, "test"), **options)
        assert abs(all_four.mean_square.value - truth) <= 3 * all_four.mean_square.error
        ratio = all_four.mean_square.error / one.mean_square.error
        assert ratio == pytest.approx(math.sqrt(2 + 2 / 16) / 4, rel=0.3)


def test_moments_are_unbiased():
    """Over many examples the errors average out, and what is left is smaller than their own estimate."""
    values = torch.tensor([4, 2, 1, 0.5, 0.25, 0.15, 0.1, 0], dtype=torch.float64).sqrt()
    many = spectra.get("moments").measure(
        diagonal_operator(values.expand(20_000, -1)), generator(0, "test"), probes=3
    )
    for estimate, truth in (
        (many.mean_square, values.square().mean()),
        (many.gap, (values**2 - 1).square().mean()),
    ):
        assert abs(estimate.value - float(truth)) <= 3 * estimate.error
        assert estimate.error < 0.02 * float(truth)


def test_moments_with_few_probes_do_not_claim_to_know():
    operator = diagonal_operator(SPECTRA["rising"][None])
    one, two = (spectra.get("moments").measure(operator, generator(0, "test"), probes=n) for n in (1, 2))
    assert one.mean_square.value > 0
    assert all(math.isnan(v) for v in (one.mean_square.error, one.gap.value, one.gap.error))
    assert two.mean_square.error > 0
    assert two.gap.value > 0
    assert math.isnan(two.gap.error)


def test_moments_are_exact_from_as_many_probes_as_values():
    values = torch.linspace(0.1, 2, 12, dtype=torch.float64)
    found = spectra.get("moments").measure(dense_operator(prescribed(values, 20)[None]), generator(0, "test"))
    assert found.mean_square.value == pytest.approx(float(values.square().mean()), rel=1e-12)
    assert found.gap.value == pytest.approx(float((values**2 - 1).square().mean()), rel=1e-12)
    assert (found.mean_square.error, found.gap.error) == (0.0, 0.0)
    assert found.method == "moments from 12 probes"
