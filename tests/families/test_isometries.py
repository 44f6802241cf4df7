"""The contract of the isometries, over every member."""

from __future__ import annotations

import pytest
import torch

from sigprune.base.seeds import generator
from sigprune.families.isometries import isometries
from sigprune.values.orthogonality import floor, residual

SHAPES = [(3, 12, 12), (2, 6, 20), (2, 20, 6), (4, 1, 9), (1, 1, 1)]


def masked(shape: tuple[int, int, int], density: float) -> tuple[torch.Tensor, torch.Tensor]:
    draw = generator(0, "test", str(shape))
    keep = torch.rand(shape, generator=draw) < density
    return torch.randn(shape, generator=draw, dtype=torch.float64).masked_fill(~keep, 0) / shape[
        2
    ] ** 0.5, keep


@pytest.mark.parametrize("name", isometries.names())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("density", [1.0, 0.5, 0.0])
def test_contract(name, shape, density):
    blocks, keep = masked(shape, density)
    given = blocks.clone()
    solved = isometries.get(name).restore(blocks, keep)
    assert torch.equal(blocks, given), "the argument must not change"
    assert solved.shape == shape
    assert solved.dtype is torch.float64
    assert torch.isfinite(solved).all()
    assert not solved[~keep].any(), "removed entries stay zero"
    assert (residual(solved) <= residual(given) + 1e-12).all()
    assert (residual(solved) >= floor(*shape[1:]) - 1e-9).all()


@pytest.mark.parametrize("name", isometries.names())
def test_an_exactly_orthogonal_block_stays(name):
    """The gradient of the un-squared norm is undefined there: the naive step is NaN."""
    eye = torch.eye(6, dtype=torch.float64)[None]
    assert torch.equal(isometries.get(name).restore(eye, eye > 0), eye)


@pytest.mark.parametrize("name", ["barzilai_borwein", "gradient_descent"])
def test_half_of_the_entries_can_be_nearly_orthogonal(name):
    blocks, keep = masked((4, 32, 32), 0.5)
    assert (residual(isometries.get(name).restore(blocks, keep)) < 0.25).all()


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
        solved = isometries.get("gradient_descent").restore(blocks, keep, lr=0.01, steps=3)[0]
        torch.testing.assert_close(solved, w * keep[0])


@pytest.mark.parametrize("shape", [(2, 4, 7), (2, 7, 4)], ids=str)
def test_residual_against_the_definition(shape):
    blocks = torch.randn(shape, generator=generator(1, "test", "residual"), dtype=torch.float64)
    expected = torch.linalg.matrix_norm(blocks @ blocks.mT - torch.eye(shape[1], dtype=torch.float64))
    torch.testing.assert_close(residual(blocks), expected)
