"""Golub-Kahan bidiagonalisation and the quadrature that is made of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.base.rng import generator
from sigprune.families.spectra import spectra
from sigprune.families.spectra._bidiagonal import Bidiagonal, bidiagonalise
from tests.support.matrices import dense_operator, diagonal_operator, hilbert, prescribed

RISING = torch.linspace(0.01, 2, 300, dtype=torch.float64).flip(0)[None]


def lanczos(matrices: Tensor, **options):
    return spectra.get("lanczos").measure(dense_operator(matrices), generator(0, "test"), **options)


def check_identities(found: Bidiagonal, matrices: Tensor, tolerance: float) -> None:
    """Each run against the matrix of its own example."""
    runs, steps, _ = found.left.shape
    full = found.matrix()
    eye = torch.eye(steps, dtype=torch.float64)
    for run in range(runs):
        left, right, matrix = found.left[run], found.right[run], matrices[run % len(matrices)].double()
        size = torch.linalg.matrix_norm(matrix, 2) + 1e-300
        torch.testing.assert_close(left @ left.T, eye, rtol=0, atol=1e-12)
        torch.testing.assert_close(right @ right.T, eye, rtol=0, atol=1e-12)
        square, last = full[run, :-1], full[run, -1, -1]
        adjoint = (matrix.T @ left.T - right.T @ square.T) / size
        residual = (matrix @ right.T - left.T @ square) / size
        assert adjoint.abs().max() < tolerance
        assert residual[:, :-1].abs().sum() < tolerance * steps
        assert float(residual[:, -1].norm() - last / size) == pytest.approx(0, abs=tolerance)
        assert (left @ residual[:, -1]).abs().max() < tolerance


def low_rank(rank: int = 3) -> Tensor:
    values = torch.zeros(20, dtype=torch.float64)
    values[:rank] = torch.arange(rank, 0, -1)
    return prescribed(values, 30)


MATRICES = {
    "hilbert": (hilbert(13, 15)[None], 12),
    "random": (torch.stack([prescribed(torch.rand(20).double(), 25, seed) for seed in range(3)]), 20),
    "low rank": (low_rank()[None], 10),
    "isometry": (torch.eye(20, 30, dtype=torch.float64)[None], 7),
    "zero": (torch.zeros(2, 5, 8, dtype=torch.float64), 4),
    "one zero": (torch.stack([torch.zeros(20, 30, dtype=torch.float64), low_rank(9)]), 8),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("probes", [1, 2])
def test_identities(name, probes):
    matrices, steps = MATRICES[name]
    found = bidiagonalise(dense_operator(matrices), generator(0, "test"), steps, probes, 1.0)
    assert found.left.shape == (probes * len(matrices), steps, matrices.shape[1])
    check_identities(found, matrices, 1e-12)


@pytest.mark.parametrize("name", MATRICES)
def test_identities_with_products_in_single_precision(name):
    matrices, steps = MATRICES[name]
    found = bidiagonalise(dense_operator(matrices.float()), generator(0, "test"), steps, 1, 1.0)
    check_identities(found, matrices, 1e-5)


def test_more_steps_than_there_are_values_are_refused_or_clipped():
    matrices = hilbert(4, 6)[None]
    with pytest.raises(BadInput, match="at most 4 steps, got 5"):
        bidiagonalise(dense_operator(matrices), generator(0, "test"), 5, 1, 1.0)
    assert lanczos(matrices, steps=5).values.shape == (1, 4)


@pytest.mark.parametrize("repeated", [1, 5, 20])
def test_full_depth_is_exact_even_with_equal_values(repeated):
    values = torch.linspace(3, 0.1, 20, dtype=torch.float64)
    values[:repeated] = 3
    spectrum = lanczos(prescribed(values, 30)[None], steps=20, top=20)
    torch.testing.assert_close(spectrum.values, values[None], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(spectrum.top, values[None], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(spectrum.weights, torch.full((1, 20), 1 / 20, dtype=torch.float64))
    assert spectrum.mean.error < 1e-12
    assert spectrum.mean.value == pytest.approx(float(values.mean()))


def test_low_effective_rank():
    values = torch.full((30,), 0.001, dtype=torch.float64)
    values[:4] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    spectrum = lanczos(prescribed(values, 40)[None], steps=6, top=4)
    torch.testing.assert_close(spectrum.top, values[None, :4], rtol=1e-5, atol=0)
    assert spectrum.mean_square.value == pytest.approx(float(values.square().mean()), rel=1e-6)


def test_a_low_rank_and_an_isometry_are_exact_after_few_steps():
    found = lanczos(low_rank()[None], steps=5)
    assert found.mean.value == pytest.approx(6 / 20, rel=1e-9)
    assert found.mean.error < 1e-6
    equal = lanczos(2 * torch.eye(50, dtype=torch.float64)[None], steps=3)
    assert (equal.mean.value, equal.gap.value) == (pytest.approx(2), pytest.approx(9))
    assert equal.mean.error < 1e-6
    torch.testing.assert_close(equal.top, torch.full((1, 3), 2.0, dtype=torch.float64))


def test_equal_values_keep_the_share_that_their_probe_gives_them():
    """Their one node has converged, but it is no single value; neither are the copies that restarts find."""
    values = torch.tensor([3.0, 2.0] + [1.0] * 10, dtype=torch.float64)
    found = lanczos(prescribed(values, 15)[None], steps=6)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(1, dtype=torch.float64))
    assert found.mean.value == pytest.approx(float(values.mean()), rel=1e-6)
    torch.testing.assert_close(found.top[0], values[:6])


@pytest.mark.parametrize("inputs", [60, 90])
@pytest.mark.parametrize("seed", range(5))
def test_top_values_have_bounds_that_hold_and_are_never_too_large(inputs, seed):
    draw = torch.randn(1, 60, inputs, generator=generator(seed, "test", "top"), dtype=torch.float64)
    values = torch.linalg.svdvals(draw[0])
    spectrum = lanczos(draw, steps=15, top=15)
    nearest = (spectrum.top[0, :, None] - values).abs().amin(1)
    assert bool((nearest <= spectrum.bounds[0]).all())
    assert bool((spectrum.top[0] <= values[:15] * (1 + 1e-9)).all())
    assert float(spectrum.bounds[0, -1]) < values[0]
    converged = spectrum.bounds[0] < 1e-2 * values[0]
    assert bool(converged[0])
    torch.testing.assert_close(spectrum.top[0][converged], values[:15][converged], rtol=1e-3, atol=0)


def test_top_values_are_those_of_another_library():
    sparse = pytest.importorskip("scipy.sparse.linalg")
    values = torch.logspace(1, -2, 50, dtype=torch.float64)
    matrix = prescribed(values, 70)
    oracle = sparse.svds(matrix.numpy(), k=6, return_singular_vectors=False)
    found = lanczos(matrix[None], steps=20, top=6)
    torch.testing.assert_close(found.top[0], torch.tensor(sorted(oracle)[::-1], dtype=torch.float64))


def test_of_several_probes_the_best_value_counts():
    operator = diagonal_operator(RISING)
    best = spectra.get("lanczos").measure(operator, generator(0, "test"), steps=6, probes=8)
    found = bidiagonalise(operator, generator(0, "test"), 6, 8, 1.0)
    single = torch.linalg.svdvals(found.matrix()[:, :-1])
    torch.testing.assert_close(best.top[0], single.amax(0))
    assert best.values.shape == (1, 48)


def test_quantiles_of_a_density():
    spectrum = spectra.get("lanczos").measure(diagonal_operator(RISING), generator(0, "test"), probes=20)
    torch.testing.assert_close(
        torch.tensor(spectrum.quantiles()), torch.tensor([0.1, 0.5, 1.0, 1.5, 1.9]), rtol=0, atol=0.1
    )


def test_gauss_and_radau_enclose_the_mean_of_a_probe():
    """A spectrum down to 0 and four steps: neither rule is near, and the error says so."""
    values = torch.logspace(0, -6, 200, dtype=torch.float64)[None]
    few = spectra.get("lanczos").measure(diagonal_operator(values), generator(0, "test"), steps=4, probes=50)
    assert abs(few.mean.value - float(values.mean())) <= 2 * few.mean.error
    assert few.mean.error > 0.05 * float(values.mean())
    alone = spectra.get("lanczos").measure(
        diagonal_operator(RISING), generator(0, "test"), steps=1, probes=200
    )
    truth = float((RISING**2 - 1).square().mean())
    assert abs(alone.gap.value - truth) <= 2 * alone.gap.error, "one node knows no second moment of squares"


@pytest.mark.parametrize(("steps", "products"), [(5, 20), (12, 48), (20, 78)])
def test_it_takes_the_products_that_it_says(steps, products):
    operator, taken = dense_operator(low_rank(20)[None]), []

    def counted(product):
        return lambda vectors: taken.append(len(vectors)) or product(vectors)

    counting = replace(operator, matmat=counted(operator.matmat), rmatmat=counted(operator.rmatmat))
    found = spectra.get("lanczos").measure(counting, generator(0, "test"), steps=steps, probes=2)
    assert sum(taken) == products
    assert f"from 2 probes ({products} products)" in found.method
