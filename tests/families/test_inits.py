"""The contract of the inits, over every member, and what each promises."""

from __future__ import annotations

import math

import pytest
import torch

from sigprune.base.rng import generator
from sigprune.families.inits import inits
from sigprune.values.block_spec import BlockSpec

SHAPES = [
    (8, 8),
    (4, 12),
    (12, 4),
    (8, 4, 3, 3),
    (4, 8, 3, 3),
    (6, 1, 5, 5),
    (5, 3, 7),
    (4, 2, 3, 3, 3),
    (1, 1),
]


def draw(
    name: str, shape: tuple[int, ...], seed: int = 0, *, standardised: bool = False, **options: float
) -> torch.Tensor:
    spec = BlockSpec(shape, "linear", generator(seed, "test", name), standardised)
    return inits.get(name).init(spec, **options)


@pytest.mark.parametrize("name", inits.names())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_contract(name, shape):
    block = draw(name, shape)
    assert block.shape == shape
    assert block.dtype is torch.float64
    assert torch.isfinite(block).all()
    assert torch.equal(block, draw(name, shape)), "equal seeds must give equal values"
    assert not torch.equal(block, draw(name, shape, seed=1)) or block.numel() == 1
    scale, default = next((o.name, o.default) for o in inits.read(name).options.values())
    torch.testing.assert_close(draw(name, shape, **{scale: 2 * default}), 2 * block)
    assert inits.get(name).PAPER


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_orthogonal_flattened_kernel(shape):
    values = torch.linalg.svdvals(draw("orthogonal", shape, gain=1.5).flatten(1))
    torch.testing.assert_close(values, torch.full_like(values, 1.5))


@pytest.mark.parametrize(
    "shape", [(4, 12), (12, 4), (8, 8), (9, 2), (6, 1, 5, 5), (8, 4, 3, 3), (3, 1)], ids=str
)
def test_rows_that_standardisation_only_scales(shape):
    """Zero mean and equal norms, and still one singular value (but for the 0 of the constant vector)."""
    matrix = draw("orthogonal", shape, standardised=True).flatten(1)
    rows, columns = matrix.shape
    if columns == 1:  # the filter is its own mean, whatever it is
        return
    torch.testing.assert_close(matrix.mean(1), torch.zeros(rows, dtype=torch.float64))
    norms = matrix.norm(dim=1)
    torch.testing.assert_close(norms, norms.mean().expand(rows))
    values = torch.linalg.svdvals(matrix)[: min(rows, columns - 1)]
    torch.testing.assert_close(values, torch.ones_like(values))


@pytest.mark.parametrize("shape", [(8, 8, 3, 3), (4, 8, 3, 3), (8, 4, 3, 3)], ids=str)
def test_a_standardised_delta_stays_a_delta(shape):
    kernel = draw("delta_orthogonal", shape, standardised=True).flatten(1)
    used = (kernel - kernel.mean(1, keepdim=True)) / kernel.std(1, keepdim=True)
    taps = used.reshape(shape).flatten(2)
    assert float(taps[..., :4].abs().max()) < 1e-12
    values = torch.linalg.svdvals(taps[..., 4])[: min(shape[0], shape[1] - 1)]
    torch.testing.assert_close(values, values.mean().expand(len(values)))


def test_a_standardised_block_orthogonal_kernel_stays_isometric():
    shape = (4, 8, 3, 3)
    kernel = draw("block_orthogonal", shape, standardised=True)
    filters = kernel.flatten(1)
    torch.testing.assert_close(filters.mean(1), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(filters.norm(dim=1), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("name", ["delta_orthogonal", "block_orthogonal"])
@pytest.mark.parametrize("shape", [*(s for s in SHAPES if len(s) > 2), (6, 4, 1, 3), (4, 6, 2, 4)], ids=str)
def test_the_convolution_operator_is_isometric(name, shape):
    """With stride 1 and circular padding: isometric at each frequency."""
    block = torch.zeros(*shape[:2], *(8 for _ in shape[2:]), dtype=torch.float64)
    block[:, :, *(slice(size) for size in shape[2:])] = draw(name, shape)
    transformed = torch.fft.fftn(block, dim=tuple(range(2, len(shape)))).flatten(2).permute(2, 0, 1)
    values = torch.linalg.svdvals(transformed)
    torch.testing.assert_close(values, torch.ones_like(values))


def test_block_orthogonal_fills_every_tap():
    block = draw("block_orthogonal", (16, 8, 3, 3))
    assert bool((block.flatten(2).norm(dim=(0, 1)) > 0.1).all())
    with pytest.raises(AssertionError):  # the flattened kernel is not orthogonal: the operator is
        torch.testing.assert_close(
            torch.linalg.svdvals(block.flatten(1)), torch.ones(16, dtype=torch.float64)
        )


def test_block_orthogonal_with_more_inputs_is_the_adjoint():
    """Of the convolution with in <= out: transposed channels, mirrored kernel."""
    wide, tall = draw("block_orthogonal", (4, 8, 3, 3)), draw("block_orthogonal", (8, 4, 3, 3))
    torch.testing.assert_close(wide, tall.transpose(0, 1).flip(2, 3))


def test_orthogonal_is_haar_distributed():
    """E[q_11] = 0 and E[q_11 ** 2] = 1/n; without the sign correction the first moment is far from 0."""
    entries = torch.tensor([float(draw("orthogonal", (4, 4), seed=s)[0, 0]) for s in range(800)])
    assert abs(float(entries.mean())) < 4 * 0.5 / math.sqrt(800)
    assert abs(float(entries.square().mean()) - 0.25) < 0.04


@pytest.mark.parametrize(
    ("name", "variance"),
    [("lecun", 1 / 450), ("kaiming", 2 / 450), ("xavier", 2 / (450 + 576)), ("normal", 0.02**2)],
)
def test_variance(name, variance):
    block = draw(name, (64, 50, 3, 3))
    assert float(block.var()) == pytest.approx(variance, rel=5 * math.sqrt(2 / block.numel()))
