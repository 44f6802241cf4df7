"""The contract of the repairs, over every member."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from sigprune.base.rng import generator
from sigprune.families.repairs import lbfgs, repairs, rescale
from sigprune.values.orthogonality import floor, frequencies, kernels, residual, weights
from tests.support.grids import thinned

SHAPES = [
    (3, 12, 12), (2, 6, 20), (2, 20, 6), (4, 1, 9), (1, 1, 1), (2, 4, 6, 3, 3), (2, 6, 4, 3), (3, 1, 1, 3, 2),
]  # fmt: skip
CASES = [(name, {}) for name in repairs.names()] + [("lbfgs", {"target": "operator"})]


def masked(
    shape: tuple[int, ...], density: float, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    draw = generator(0, "test", str(shape))
    keep = torch.rand(shape, generator=draw) < density
    values = torch.randn(shape, generator=draw, dtype=torch.float64).masked_fill(~keep, 0)
    return (values / math.prod(shape[2:]) ** 0.5).to(dtype), keep


@pytest.mark.parametrize(
    ("dtype", "case", "shape", "density"),
    thinned([torch.float64, torch.float32], CASES, SHAPES, [1.0, 0.5, 0.1, 0.0], about=5),
)
def test_contract(dtype, case, shape, density):
    name, options = case
    blocks, keep = masked(shape, density, dtype)
    given = blocks.clone()
    solved = repairs.get(name).restore(blocks, keep, **options)
    target = options.get("target", "kernel")
    assert torch.equal(blocks, given), "the argument must not change"
    assert solved.shape == shape
    assert solved.dtype is dtype
    assert torch.isfinite(solved).all()
    assert not solved[~keep].any(), "removed entries stay zero"
    assert (residual(solved, target) <= residual(given, target) + 10 * torch.finfo(dtype).eps).all()
    assert (residual(solved.double(), target) >= floor(keep, target) - 1e-9).all()
    assert torch.equal(solved, repairs.get(name).restore(blocks, keep, **options)), "deterministic"


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_an_exactly_orthogonal_block_stays(name, options):
    """The gradient of the un-squared norm is undefined there: the naive step is NaN."""
    eye = torch.eye(6, dtype=torch.float64)[None]
    assert torch.equal(repairs.get(name).restore(eye, eye > 0, **options), eye)


@pytest.mark.parametrize(("name", "bound"), [("lbfgs", 1e-3), ("gradient_descent", 0.25)])
@pytest.mark.parametrize("shape", [(4, 32, 96), (4, 96, 32)], ids=str)
def test_half_of_the_entries_can_be_nearly_orthogonal(name, bound, shape):
    blocks, keep = masked(shape, 0.5)
    excess = residual(repairs.get(name).restore(blocks, keep)) - floor(keep)
    assert (excess < bound).all()


def test_gradient_descent_steps_as_the_paper_writes_them():
    """Three steps against automatic differentiation of || (C ⊙ W) (C ⊙ W)ᵀ - I ||_F, wide and tall."""
    for shape in [(1, 5, 9), (1, 9, 5)]:
        blocks, keep = masked(shape, 0.6)
        w = blocks[0].clone()
        for _ in range(3):
            leaf = w.clone().requires_grad_()
            masked_w = leaf * keep[0]
            torch.linalg.matrix_norm(masked_w @ masked_w.T - torch.eye(shape[1], dtype=w.dtype)).backward()
            w = w - 0.01 * leaf.grad
        for last in (False, True):
            solved = repairs.get("gradient_descent").restore(blocks, keep, lr=0.01, steps=3, last=last)[0]
            torch.testing.assert_close(solved, w * keep[0])


def test_the_papers_last_iterate_is_in_a_cycle():
    """The norm is not squared: near the optimum each step is as long as far from it."""
    blocks, keep = masked((2, 32, 96), 0.5)
    last, best = (
        residual(repairs.get("gradient_descent").restore(blocks, keep, patience=0, steps=1000, last=last))
        for last in (True, False)
    )
    assert (last > 0.1).all()
    assert (best < last).all()


@pytest.mark.parametrize("shape", [(2, 4, 7), (2, 7, 4)], ids=str)
def test_residual_against_the_definition(shape):
    blocks = torch.randn(shape, generator=generator(1, "test", "residual"), dtype=torch.float64)
    expected = torch.linalg.matrix_norm(blocks @ blocks.mT - torch.eye(shape[1], dtype=torch.float64))
    torch.testing.assert_close(residual(blocks), expected)
    spread = blocks.unflatten(2, (1, shape[2]))  # kernels count as columns
    torch.testing.assert_close(residual(spread), expected)


KERNELS = [
    (2, 3, 5, 3, 3),
    (2, 5, 3, 3, 3),
    (3, 1, 1, 3, 3),
    (1, 4, 4, 2, 4),
    (2, 3, 4, 5),
    (1, 2, 3, 2, 3, 2),
]


@pytest.mark.parametrize("shape", KERNELS, ids=str)
def test_residual_of_the_operator_against_all_frequencies(shape):
    """Of a circular convolution on an image of 9 points a side, one matrix for each of its frequencies."""
    blocks = torch.randn(shape, generator=generator(1, "test", "operator"), dtype=torch.float64)
    axes = tuple(range(3, len(shape)))
    fourier = torch.fft.fftn(blocks, [9] * len(axes), dim=axes).flatten(3).permute(0, 3, 1, 2)
    grams = fourier @ fourier.mH - torch.eye(shape[1], dtype=torch.float64)
    expected = torch.linalg.matrix_norm(grams).square().mean(1).sqrt()
    torch.testing.assert_close(residual(blocks, "operator"), expected)


@pytest.mark.parametrize("shape", KERNELS, ids=str)
def test_kernels_is_the_adjoint_of_frequencies(shape):
    draw = generator(2, "test", "adjoint")
    blocks = torch.randn(shape, generator=draw, dtype=torch.float64)
    image = frequencies(blocks)
    other = frequencies(torch.randn(shape, generator=draw, dtype=torch.float64)) @ image.mH @ image
    inner = (image.conj() * other).real.sum((0, 2, 3)) @ weights(shape[3:])
    torch.testing.assert_close((blocks * kernels(other, shape[3:])).sum(), inner)


def test_the_floor_is_a_bound_and_a_maximum_matching_attains_its_sharper_form():
    """Ones at kept entries of which no two share a row or column: B Bᵀ is the identity on those rows."""
    keep = torch.rand(1, 30, 30, generator=generator(0, "test", "floor")) < 0.05
    match = maximum_bipartite_matching(csr_matrix(keep[0].numpy()), perm_type="column")
    rows = np.flatnonzero(match >= 0)
    block = torch.zeros(1, 30, 30, dtype=torch.float64)
    block[0, rows, match[rows]] = 1.0
    assert not block[~keep].any()
    sharp = math.sqrt(30 - len(rows))
    assert float(residual(block)) == pytest.approx(sharp)
    assert 0 < float(floor(keep)) <= sharp
    assert float(residual(lbfgs.restore(torch.rand(1, 30, 30) * keep, keep))) >= sharp - 1e-5


def test_the_floor_of_empty_rows_and_columns_is_reached():
    """Blocks of one batch that lack different rows and columns: each comes to its own floor."""
    blocks, keep = masked((3, 16, 40), 0.6)
    keep[0, :5] = keep[1, :, 10:] = keep[2, 3] = False
    blocks *= keep
    torch.testing.assert_close(floor(keep), torch.tensor([5.0, 6.0, 1.0], dtype=torch.float64).sqrt())
    torch.testing.assert_close(residual(lbfgs.restore(blocks, keep)), floor(keep), atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(9, 14), (14, 9), (12, 12)], ids=str)
def test_lbfgs_against_scipy(shape):
    """No worse than SciPy's L-BFGS-B in float64 from the same start, and at a stationary point."""
    blocks, keep = masked((1, *shape), 0.4)
    places = keep[0].numpy()

    def naive(values):
        block = np.zeros(shape)
        block[places] = values
        gram = block @ block.T - np.eye(shape[0])
        return (gram**2).sum(), (4 * gram @ block)[places]

    found = minimize(naive, blocks[0].numpy()[places], jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    solved = lbfgs.restore(blocks, keep, tolerance=1e-9, steps=2000)[0].numpy()
    value, slope = naive(solved[places])
    assert value <= found.fun + 1e-3
    assert np.abs(slope).max() < 1e-2


def test_with_all_entries_it_comes_to_a_semi_orthogonal_matrix_as_exactly_as_asked():
    for shape in [(2, 8, 20), (2, 20, 8), (2, 8, 8)]:
        blocks, keep = masked(shape, 1.0)
        solved = lbfgs.restore(blocks, keep, tolerance=1e-11, steps=2000)
        values = torch.linalg.svdvals(solved)
        torch.testing.assert_close(values, torch.ones_like(values), atol=1e-10, rtol=0)


def test_a_single_row_gets_length_one():
    blocks, keep = masked((5, 1, 9), 0.5)
    kept = keep.any(2)[:, 0]
    for name, bound in [("lbfgs", 1e-3), ("rescale", 1e-12)]:
        lengths = repairs.get(name).restore(blocks, keep).norm(dim=2)[kept]
        torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=bound, rtol=0)


def test_the_transposed_block_takes_the_transposed_steps():
    blocks, keep = masked((2, 10, 30), 0.4)
    solved = lbfgs.restore(blocks, keep, steps=15)
    across = lbfgs.restore(blocks.mT.contiguous(), keep.mT.contiguous(), steps=15)
    torch.testing.assert_close(solved, across.mT)


def test_blocks_solve_alone_as_together(monkeypatch):
    """In batches, in small batches (bounded memory), one by one."""
    blocks, keep = masked((5, 12, 25), 0.5)
    keep[1, :4] = False
    blocks[2] = 0.0
    blocks *= keep
    together = lbfgs.restore(blocks, keep, steps=20)
    alone = [lbfgs.restore(b[None], k[None], steps=20)[0] for b, k in zip(blocks, keep, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone))
    monkeypatch.setattr(lbfgs, "_ENTRIES", 2 * 12 * 25)
    torch.testing.assert_close(lbfgs.restore(blocks, keep, steps=20), together)


def test_single_precision_reaches_what_double_does():
    blocks, keep = masked((3, 24, 80), 0.5)
    single = lbfgs.restore(blocks.float(), keep, tolerance=1e-5)
    assert (residual(single.double()) < 2e-5).all()
    assert (residual(lbfgs.restore(blocks, keep, tolerance=1e-5)) < 1e-5).all()


@pytest.mark.parametrize(
    ("shape", "density"),
    [
        pytest.param((2, 8, 20, 3, 3), 0.5, marks=pytest.mark.slow),
        pytest.param((2, 20, 8, 3, 3), 0.5, marks=pytest.mark.slow),
        ((1, 5, 14, 3), 0.6),
        ((1, 3, 12, 2, 2), 0.7),
    ],
    ids=str,
)
def test_the_convolution_becomes_isometric(shape, density):
    """With circular padding, at every frequency of an image of 9 points a side; removed entries stay zero."""
    blocks, keep = masked(shape, density)
    solved = lbfgs.restore(blocks, keep, target="operator", steps=2000)
    axes = tuple(range(3, len(shape)))
    fourier = torch.fft.fftn(solved, [9] * len(axes), dim=axes).flatten(3).permute(0, 3, 1, 2)
    values = torch.linalg.svdvals(fourier)
    torch.testing.assert_close(values, torch.ones_like(values), atol=1e-2, rtol=0)
    assert not solved[~keep].any()
    flattened = lbfgs.restore(blocks, keep)
    ends = [residual(one, "operator") - floor(keep, "operator") for one in (flattened, solved)]
    assert (ends[0] > 10 * ends[1]).all(), "an isometric kernel is not an isometric convolution"


def test_a_depthwise_kernel_near_a_delta_becomes_a_delta():
    """No other kernel of finite size is isometric on one channel."""
    blocks, keep = masked((4, 1, 1, 3, 3), 0.7)
    keep[..., 1, 1] = True
    blocks *= 0.3
    blocks[..., 1, 1] = -0.8
    solved = lbfgs.restore(blocks, keep, target="operator", tolerance=1e-9, steps=2000)
    delta = torch.zeros_like(blocks)
    delta[..., 1, 1] = -1.0
    torch.testing.assert_close(solved, delta, atol=1e-3, rtol=0)


def test_thinning_leaves_a_stationary_point_that_the_plain_descent_ends_in():
    """Fewer kept entries than conditions: isometric only with most of them zero."""
    blocks, keep = masked((1, 48, 48), 0.5)
    plain = lbfgs.restore(blocks, keep)
    thinned = lbfgs.restore(blocks, keep, thin=True)
    assert float(residual(plain)) > 0.02
    assert float(residual(thinned)) < 2e-3
    used = [int((solved.abs() > 1e-3).sum()) / int(keep.sum()) for solved in (plain, thinned)]
    assert used[0] > 0.8
    assert used[1] < 0.3


def test_the_line_search_finds_the_lowest_point():
    draw = generator(0, "test", "quartic")
    powers = torch.randn(4, 50, generator=draw, dtype=torch.float64)
    powers[0], powers[3] = -powers[0].abs(), powers[3].abs() + 0.01
    grid = torch.linspace(0, 100, 20_001, dtype=torch.float64)[:, None]

    def height(t: torch.Tensor) -> torch.Tensor:
        return t * (powers[0] + t * (powers[1] + t * (powers[2] + t * powers[3])))

    assert (height(lbfgs._lowest(powers)) <= height(grid).amin(0)).all()
    assert not lbfgs._lowest(torch.zeros(4, 2)).any(), "a direction of zeros leaves the block where it is"


def test_rescaling_restores_the_second_moment_where_that_helps():
    blocks, keep = masked((2, 8, 30), 0.3)
    blocks[1] *= 0
    blocks[1, 0, 0] = 1.0  # one row has all: a larger factor makes it worse
    keep[1, 0, 0] = True
    solved = rescale.restore(blocks, keep)
    assert float(solved[0].square().sum()) == pytest.approx(8.0)
    torch.testing.assert_close(solved[0] / solved[0].norm(), blocks[0] / blocks[0].norm())
    assert torch.equal(solved[1], blocks[1])
