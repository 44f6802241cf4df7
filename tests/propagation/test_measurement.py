"""Bounds of a measurement: what is left out is counted, the same everywhere, and said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sigprune.base.registry import MemberSpec
from sigprune.base.rng import generator
from sigprune.families.spectra import spectra
from sigprune.models.opening import describe
from sigprune.propagation.measurement import affordable

EXAMPLES = 8
AUTO = spectra.resolve(MemberSpec("auto"), "measure.method")


@pytest.fixture(scope="module")
def network():
    """One layer of 2^20 weights: 2^21 operations, and a graph of 8 KiB, for every example."""
    view = describe(nn.Sequential(nn.Linear(1024, 1024), nn.Tanh(), nn.Linear(1024, 10)))
    return view, torch.randn(EXAMPLES, 1024, generator=generator(0, "test"))


def test_what_fits_is_left_as_it_is(network):
    view, inputs = network
    for seconds in (None, 60.0):
        effort = affordable(view, inputs, AUTO, seconds=seconds)
        assert (effort.examples, effort.method, effort.note) == (EXAMPLES, AUTO, "")


def test_a_second_is_counted_from_operations_and_bytes(network):
    """Ten exact products, and 13 passes for a profile, of 2 · weights / 5e10 + held / 1e9 seconds each."""
    view, inputs = network
    operations, held = 2 * (1024 * 1024 + 1024 * 10), 4 * 1024
    one = 23 * (operations / 5e10 + held / 1e9)
    assert affordable(view, inputs, AUTO, seconds=8.05 * one).note == ""
    effort = affordable(view, inputs, AUTO, seconds=3.05 * one)
    assert (effort.examples, effort.method) == (3, AUTO)
    assert effort.note.startswith("3 of 8 examples: all would take 0.00")
    assert effort.note.endswith(f"over measure.max_seconds={3.05 * one:g}")
    least = affordable(view, inputs, AUTO, seconds=0.01 * one)
    assert (least.examples, least.method, least.note[:15]) == (1, AUTO, "1 of 8 examples")


def test_lanczos_steps_go_last_and_an_exact_method_stays(network):
    view, inputs = network
    lanczos = spectra.resolve(MemberSpec("lanczos", {"steps": 30}), "measure.method")
    effort = affordable(view, inputs, lanczos, seconds=1e-9)
    assert (effort.examples, effort.method.options["steps"]) == (1, 4)
    assert effort.note.startswith("4 steps at 1 of 8 examples")
    half = affordable(view, inputs, lanczos, seconds=(13 + 5 * 15.5) * 23e-6 * 2)
    assert half.examples == 1
    assert half.method.options["steps"] <= 30
    exact = spectra.resolve(MemberSpec("exact"), "measure.method")
    assert affordable(view, inputs, exact, seconds=1e-9).method == exact
