"""The contract of the spectrum methods, over every member, on matrices with prescribed values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.base.rng import generator
from sigprune.families.spectra import _shared, spectra
from sigprune.values.spectrum import Spectrum
from tests.support.matrices import dense_operator, prescribed

HARD = torch.tensor([10.0, 3.0, 1.0, 0.5, 1e-3, 1e-6], dtype=torch.float64)
MANY = torch.linspace(2, 0.01, 90, dtype=torch.float64) ** 2


def check(spectrum: Spectrum, values: Tensor) -> None:
    """Exact ones match; of an estimate, what it says is true within five standard errors."""
    examples = len(spectrum.values)
    assert spectrum.values.dtype is torch.float64
    assert spectrum.summary().count == examples * len(values)
    if spectrum.kind == "exact":
        torch.testing.assert_close(spectrum.values, values.expand(examples, -1), rtol=1e-8, atol=1e-14)
        return
    assert spectrum.method
    truth = {
        "mean": values.mean(),
        "mean_square": values.square().mean(),
        "gap": (values**2 - 1).square().mean(),
    }
    known = {name: getattr(spectrum, name) for name in truth}
    assert not math.isnan(known["mean_square"].value + known["gap"].value)
    for name, estimate in known.items():
        if not math.isnan(estimate.value):
            distance = abs(estimate.value - float(truth[name]))
            assert distance <= 5 * estimate.error + 1e-9 * float(truth[name]), name
    if spectrum.top is not None:
        assert spectrum.bounds.shape == spectrum.top.shape
        nearest = (spectrum.top[..., None] - values).abs().amin(-1)
        assert bool((nearest <= spectrum.bounds).all())
    if spectrum.kind == "quadrature":
        assert spectrum.weights.shape == spectrum.values.shape
        torch.testing.assert_close(spectrum.weights.sum(1), torch.ones(examples, dtype=torch.float64))
        assert bool((spectrum.values.diff(dim=1) <= 0).all())
        assert bool((spectrum.weights >= 0).all())


@pytest.mark.parametrize("name", spectra.names())
@pytest.mark.parametrize(("values", "inputs"), [(HARD, 6), (HARD, 40), (MANY, 100)], ids=["6", "40", "100"])
def test_prescribed_spectrum(name, values, inputs):
    operator = dense_operator(torch.stack([prescribed(values, inputs, seed) for seed in range(3)]))
    check(spectra.get(name).measure(operator, generator(0, "test")), values)


@pytest.mark.parametrize("name", [name for name in spectra.names() if name != "columns"])
def test_maps_with_fewer_inputs_than_outputs(name):
    matrices = torch.stack([prescribed(MANY, 100, seed).T for seed in range(2)])
    check(spectra.get(name).measure(dense_operator(matrices), generator(0, "test")), MANY)


@pytest.mark.parametrize("name", spectra.names())
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_a_map_of_one_number(name, value):
    matrix = torch.full((2, 1, 1), value, dtype=torch.float64)
    spectrum = spectra.get(name).measure(dense_operator(matrix), generator(0, "test"))
    check(spectrum, torch.tensor([abs(value)], dtype=torch.float64))
    assert spectrum.summary().mean_square == pytest.approx(value**2)


@pytest.mark.parametrize("name", spectra.names())
def test_a_map_that_is_zero(name):
    spectrum = spectra.get(name).measure(dense_operator(torch.zeros(2, 80, 90)), generator(0, "test"))
    summary = spectrum.summary()
    assert (summary.mean_square, summary.mean_square_error) == (0.0, 0.0)
    assert summary.gap == pytest.approx(1.0)
    assert not spectrum.values.any()


@pytest.mark.parametrize("name", spectra.names())
def test_products_in_single_precision(name):
    matrices = torch.stack([prescribed(MANY, 100, seed) for seed in range(2)])
    one, other = (
        spectra.get(name).measure(dense_operator(matrices.to(dtype)), generator(0, "test")).summary()
        for dtype in (torch.float32, torch.float64)
    )
    assert one.mean_square == pytest.approx(other.mean_square, rel=1e-5)
    assert one.max == pytest.approx(other.max, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("name", spectra.names())
def test_equal_seeds_give_equal_bits(name):
    operator = dense_operator(prescribed(MANY, 100)[None])
    one, same = (spectra.get(name).measure(operator, generator(0, "test")) for _ in range(2))
    assert torch.equal(one.values, same.values)
    assert one.mean_square == same.mean_square


@pytest.mark.parametrize("name", spectra.names())
def test_a_map_that_is_not_finite_has_no_values(name):
    matrices = torch.ones(2, 3, 5, dtype=torch.float64)
    matrices[0, 0, 0] = torch.inf
    spectrum = spectra.get(name).measure(dense_operator(matrices), generator(0, "test"))
    assert spectrum.values[0].isnan().all()
    assert spectrum.values[1].isfinite().all()
    assert math.isnan(spectrum.summary().mean_square)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_products_at_once_change_nothing(rows):
    matrices = torch.randn(2, 7, 5, generator=generator(0, "test", "rows"), dtype=torch.float64)
    spectrum = spectra.get("exact").measure(dense_operator(matrices), generator(0, "test"), at_once=rows)
    torch.testing.assert_close(spectrum.values, torch.linalg.svdvals(matrices))


def test_a_large_map_is_factorised_in_blocks(monkeypatch):
    """A well conditioned one by its Gram matrix, any other by its triangular factor."""
    monkeypatch.setattr(_shared, "MAX_AT_ONCE", 300)
    for values in (HARD, HARD[:5], MANY[:7], 0 * MANY[:7]):
        found = _shared.singular_values(prescribed(values, 200))
        torch.testing.assert_close(found, values, rtol=1e-8, atol=1e-14)


def test_too_much_work_or_memory_is_refused():
    exact = spectra.get("exact")
    with pytest.raises(BadInput, match="takes 5 products"):
        exact.measure(dense_operator(torch.ones(1, 7, 5)), generator(0, "test"), max_products=4)
    wide = dense_operator(torch.ones(1, 1, 1).expand(4, 2000, 2000))
    with pytest.raises(BadInput, match=r"takes 0\.0596 GiB, over the limit"):
        exact.measure(wide, generator(0, "test"), max_memory_gib=0.05)
    with pytest.raises(BadInput, match=r"30 Lanczos vectors of 4 runs take 0\.00358 GiB, over"):
        spectra.get("lanczos").measure(wide, generator(0, "test"), max_memory_gib=1e-3)
    with pytest.raises(BadInput, match=r"64 probes take 0\.00191 GiB, over"):
        spectra.get("moments").measure(wide, generator(0, "test"), max_memory_gib=1e-3)


def test_auto_is_exact_where_that_is_affordable_and_says_what_it_is():
    auto, exact, lanczos = (spectra.get(name) for name in ("auto", "exact", "lanczos"))
    operator = dense_operator(prescribed(MANY, 100)[None])
    chosen = auto.measure(operator, generator(0, "test"), max_products=90)
    assert torch.equal(chosen.values, exact.measure(operator, generator(0, "test")).values)
    assert (chosen.kind, chosen.method) == ("exact", "exact: all 90 values")
    few = auto.measure(operator, generator(0, "test"), max_products=89, steps=12)
    assert torch.equal(few.values, lanczos.measure(operator, generator(0, "test"), steps=12).values)
    assert few.method == (
        "Lanczos: 12 steps from 1 probe (24 products); an exact spectrum takes 90 products, "
        "over max_products=89"
    )
    small = auto.measure(operator, generator(0, "test"), max_memory_gib=6e-5, steps=2)
    assert small.method.endswith("takes 6.71e-05 GiB, over max_memory_gib=6e-05")
