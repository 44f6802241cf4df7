"""The contract of the spectrum methods, over every member, on matrices with prescribed values."""

from __future__ import annotations

import pytest
import torch

from sigprune.base.errors import BadInput
from sigprune.base.seeds import generator
from sigprune.families.spectra import spectra
from sigprune.values.operator import Operator


def dense_operator(matrices: torch.Tensor) -> Operator:
    """An operator from explicit matrices (examples, outputs, inputs)."""
    return Operator(
        tuple(matrices.shape[1:]),
        len(matrices),
        lambda v: torch.einsum("eoi,kei->keo", matrices, v),
        lambda u: torch.einsum("eoi,keo->kei", matrices, u),
        matrices.dtype,
    )


def prescribed(values: torch.Tensor, inputs: int, seed: int = 0) -> torch.Tensor:
    """A float64 matrix (len(values), inputs) with these singular values."""
    draw = generator(seed, "test", "prescribed")
    n = len(values)
    left = torch.linalg.qr(torch.randn(n, n, generator=draw, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(inputs, n, generator=draw, dtype=torch.float64))[0]
    return left @ torch.diag(values) @ right.T


@pytest.mark.parametrize("name", spectra.names())
@pytest.mark.parametrize("inputs", [6, 40])
def test_prescribed_spectrum(name, inputs):
    values = torch.tensor([10.0, 3.0, 1.0, 0.5, 1e-3, 1e-6], dtype=torch.float64)
    operator = dense_operator(torch.stack([prescribed(values, inputs, seed) for seed in range(3)]))
    spectrum = spectra.get(name).measure(operator, generator(0, "test"))
    assert spectrum.values.shape == (3, 6)
    assert spectrum.values.dtype is torch.float64
    torch.testing.assert_close(spectrum.values, values.expand(3, 6), rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_products_at_once_change_nothing(rows):
    matrices = torch.randn(2, 7, 5, generator=generator(0, "test", "rows"), dtype=torch.float64)
    spectrum = spectra.get("exact").measure(dense_operator(matrices), generator(0, "test"), at_once=rows)
    torch.testing.assert_close(spectrum.values, torch.linalg.svdvals(matrices))


def test_too_much_work_or_memory_is_refused():
    exact = spectra.get("exact")
    with pytest.raises(BadInput, match="takes 5 products"):
        exact.measure(dense_operator(torch.ones(1, 7, 5)), generator(0, "test"), most_products=4)
    wide = torch.ones(1, 1, 1).expand(4, 2000, 2000)
    with pytest.raises(BadInput, match=r"takes 0\.1 GiB, over the limit"):
        exact.measure(dense_operator(wide), generator(0, "test"), most_gib=0.05)


@pytest.mark.parametrize("name", spectra.names())
def test_a_map_that_is_not_finite_has_no_values(name):
    matrices = torch.ones(2, 3, 5, dtype=torch.float64)
    matrices[0, 0, 0] = torch.inf
    values = spectra.get(name).measure(dense_operator(matrices), generator(0, "test")).values
    assert values[0].isnan().all()
    assert values[1].isfinite().all()
