"""Convolutions as maps of images: explicit circulant matrices, torch's own layers, adjointness."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from sigprune.base.errors import BadInput
from sigprune.base.rng import generator
from sigprune.families.inits.block_orthogonal import init as block_orthogonal
from sigprune.families.inits.delta_orthogonal import init as delta_orthogonal
from sigprune.families.inits.orthogonal import init as orthogonal
from sigprune.models.opening import describe
from sigprune.propagation.measurement import measure
from sigprune.values.block_spec import BlockSpec
from sigprune.values.convolution import Convolution
from sigprune.values.convolution_operator import circular_values, convolution_operator


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed, "test", "kernel"), dtype=torch.float64)


def circulant(kernel, counts, stride, dilation) -> torch.Tensor:
    """The matrix of y[m] = Σ_k W[k] x[(s m + d k) mod N], N = counts · stride, entry by entry."""
    out, channels, *taps = kernel.shape
    sides = [n * s for n, s in zip(counts, stride, strict=True)]
    matrix = torch.zeros(out, *counts, channels, *sides, dtype=torch.float64)
    for place in itertools.product(*map(range, counts)):
        for tap in itertools.product(*map(range, taps)):
            source = [
                (s * m + d * k) % n for s, m, d, k, n in zip(stride, place, dilation, tap, sides, strict=True)
            ]
            matrix[(slice(None), *place, slice(None), *source)] += kernel[(..., *tap)]
    return matrix.reshape(out * math.prod(counts), -1)


CIRCULAR = {
    "1-D": ((4, 3, 3), (6,), (1,), (1,)),
    "1-D, more inputs": ((2, 5, 3), (7,), (1,), (1,)),
    "1-D, stride": ((4, 3, 3), (3,), (2,), (1,)),
    "1-D, stride over the kernel": ((4, 3, 2), (3,), (3,), (1,)),
    "1-D, stride at the kernel": ((4, 1, 3), (3,), (3,), (1,)),
    "2-D": ((3, 2, 3, 3), (4, 5), (1, 1), (1, 1)),
    "2-D, more inputs": ((2, 4, 3, 3), (4, 4), (1, 1), (1, 1)),
    "2-D, stride": ((3, 2, 3, 3), (3, 2), (2, 2), (1, 1)),
    "2-D, mixed strides": ((3, 2, 3, 2), (2, 4), (3, 1), (1, 1)),
    "2-D, dilation": ((3, 2, 3, 3), (6, 5), (1, 1), (2, 1)),
    "2-D, stride and dilation": ((3, 2, 3, 2), (3, 3), (2, 2), (2, 3)),
    "2-D, flat kernel": ((3, 2, 1, 3), (4, 5), (1, 1), (1, 1)),
    "2-D, 1x1": ((5, 3, 1, 1), (3, 3), (1, 1), (1, 1)),
    "2-D, 1x1 with stride": ((5, 3, 1, 1), (3, 3), (2, 2), (1, 1)),
    "2-D, kernel over the image": ((2, 2, 5, 5), (3, 3), (1, 1), (1, 1)),
    "3-D": ((2, 3, 2, 3, 1), (2, 4, 3), (1, 1, 1), (1, 1, 1)),
    "3-D, stride": ((2, 3, 2, 3, 2), (2, 2, 2), (1, 2, 1), (1, 1, 1)),
}


@pytest.mark.parametrize(("shape", "counts", "stride", "dilation"), CIRCULAR.values(), ids=CIRCULAR)
def test_fourier_values_are_those_of_the_circulant_matrix(shape, counts, stride, dilation):
    kernels = torch.stack([drawn(*shape, seed=seed) for seed in (0, 1)])
    size = tuple(n * s for n, s in zip(counts, stride, strict=True))
    convolution = Convolution(stride, dilation, None)
    values = circular_values(convolution, kernels, size)
    dense = torch.stack([torch.linalg.svdvals(circulant(k, counts, stride, dilation)) for k in kernels])
    torch.testing.assert_close(values, dense, atol=1e-12, rtol=1e-12)
    few = circular_values(convolution, kernels, size, max_memory_gib=1e-9)
    torch.testing.assert_close(few, values)


@pytest.mark.parametrize("border", [(3, 3), (4, 4)])
def test_fourier_values_against_torch_with_circular_padding(border):
    """The layer of torch that pads circularly has them too, and what hangs over is rounded up."""
    layer = nn.Conv2d(4, 6, 3, padding=1, groups=2, padding_mode="circular", bias=False).double()
    (weight,) = describe(layer, example=torch.zeros(1, 4, *border, dtype=torch.float64)).weights
    blocks = torch.stack(list(weight.layout.blocks(layer.weight)))
    values = circular_values(weight.convolution, blocks, border)
    assert values.shape == (2, 2 * math.prod(border))
    dense = torch.linalg.svdvals(jacobian(layer, (4, *border)))
    torch.testing.assert_close(
        values.flatten().sort(descending=True).values, dense[dense > 0][: values.numel()]
    )
    halving = Convolution((2, 2), (1, 1), None)
    assert torch.equal(circular_values(halving, blocks, (3, 3)), circular_values(halving, blocks, (4, 4)))


def test_sizes_that_do_not_fit():
    with pytest.raises(BadInput, match=r"a positive side for each axis of the kernel \(3, 3\), got \(4,\)"):
        circular_values(Convolution((1, 1), (1, 1), None), drawn(1, 2, 2, 3, 3), (4,))
    with pytest.raises(BadInput, match=r"kernel of \(3, 3\) cannot be applied to \(2, 2\)"):
        convolution_operator(Convolution((1, 1), (1, 1), ((0, 0),) * 2), drawn(1, 2, 2, 3, 3), (2, 2))
    with pytest.raises(BadInput, match="one to three dimensions"):
        Convolution((), (), ()).apply(drawn(2, 2), drawn(1, 2))


@pytest.mark.parametrize(("out", "channels"), [(6, 6), (6, 4), (4, 6)])
@pytest.mark.parametrize("gain", [1.0, 1.7])
def test_orthogonal_convolutions_have_the_gain_at_every_frequency(out, channels, gain):
    convolution = Convolution((1, 1), (1, 1), ((1, 1), (1, 1)), "circular")
    for init in (delta_orthogonal, block_orthogonal):
        spec = BlockSpec((out, channels, 3, 3), "conv", generator(0, "test"))
        kernel = init(spec, gain=gain)[None]
        values = circular_values(convolution, kernel, (5, 5))
        torch.testing.assert_close(values, torch.full_like(values, gain), atol=1e-12, rtol=0)
        used = measure(convolution_operator(convolution, kernel, (5, 5))).values
        torch.testing.assert_close(used, values, atol=1e-12, rtol=0)


def test_an_orthogonal_matrix_is_no_orthogonal_convolution():
    """What the paper makes isometric is the flattened kernel: its convolution is not."""
    kernel = orthogonal(BlockSpec((6, 4, 3, 3), "conv", generator(0, "test")))[None]
    flat = torch.linalg.svdvals(kernel.flatten(2))
    torch.testing.assert_close(flat, torch.ones_like(flat))
    values = circular_values(Convolution((1, 1), (1, 1), None), kernel, (8, 8))
    assert float(values.max()) > 1.5
    assert float(values.min()) < 0.5


def jacobian(layer, shape) -> torch.Tensor:
    point = torch.zeros(1, *shape, dtype=torch.float64)
    dense = torch.autograd.functional.jacobian(layer, point)
    return dense.reshape(math.prod(dense.shape) // point.numel(), point.numel())


LAYERS = {
    "no padding": (nn.Conv2d(2, 3, 3), (2, 5, 6)),
    "zeros": (nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4)),
    "one axis": (nn.Conv2d(2, 3, (1, 3), padding=(0, 1)), (2, 3, 4)),
    "same": (nn.Conv2d(2, 3, (4, 3), padding="same"), (2, 5, 4)),
    "valid": (nn.Conv1d(2, 3, 2, padding="valid"), (2, 5)),
    "stride": (nn.Conv2d(2, 3, 3, padding=1, stride=2), (2, 6, 5)),
    "stride and dilation": (nn.Conv2d(2, 3, 3, padding=2, stride=(2, 1), dilation=(1, 2)), (2, 6, 5)),
    "groups": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 4, 4)),
    "depthwise": (nn.Conv2d(3, 6, 3, padding=1, groups=3), (3, 4, 4)),
    "circular": (nn.Conv2d(2, 3, 3, padding=1, stride=2, padding_mode="circular"), (2, 4, 4)),
    "reflect": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 4, 5)),
    "replicate": (nn.Conv1d(2, 3, 4, padding="same", padding_mode="replicate"), (2, 6)),
    "3-D": (nn.Conv3d(2, 2, 2, padding=1, stride=2), (2, 3, 4, 3)),
    "transposed": (nn.ConvTranspose2d(2, 3, 3, padding=1), (2, 3, 4)),
    "transposed, stride": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 3, 2),
    ),
    "transposed, dilation": (nn.ConvTranspose1d(2, 3, 3, stride=3, dilation=2), (2, 4)),
    "transposed, 3-D": (nn.ConvTranspose3d(2, 1, 2, stride=2), (2, 2, 1, 2)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)
def test_products_are_those_of_the_layer(layer, shape):
    """Every group's map is a block of the layer's own Jacobian; what lies outside is zero."""
    layer = layer.double()
    view = describe(layer, example=torch.zeros(1, *shape, dtype=torch.float64))
    (weight,) = view.weights
    blocks = torch.stack(list(weight.layout.blocks(view.params()["weight"])))
    operator = convolution_operator(weight.convolution, blocks, shape[1:])
    (rows, columns), count = operator.shape, operator.examples
    dense = jacobian(layer, shape)
    assert dense.shape == (count * rows, count * columns)
    eye = torch.eye(columns, dtype=torch.float64)[:, None].expand(-1, count, -1)
    maps = operator.matmat(eye).permute(1, 2, 0)
    torch.testing.assert_close(torch.block_diag(*maps), dense)
    draw = generator(0, "test", "vectors")
    v = torch.randn(5, count, columns, generator=draw, dtype=torch.float64)
    u = torch.randn(5, count, rows, generator=draw, dtype=torch.float64)
    torch.testing.assert_close((operator.matmat(v) * u).sum(2), (v * operator.rmatmat(u)).sum(2))
    torch.testing.assert_close(measure(operator).values, torch.linalg.svdvals(maps), atol=1e-10, rtol=1e-10)


def test_transposed_convolutions_have_the_values_of_their_adjoint():
    layer = nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1).double()
    convolution = describe(layer, example=torch.zeros(1, 3, 4, 4)).weights[0].convolution
    blocks = layer.weight.detach().transpose(0, 1)[None]
    dense = torch.linalg.svdvals(circulant(layer.weight.detach(), (4, 4), (2, 2), (1, 1)))
    torch.testing.assert_close(circular_values(convolution, blocks, (4, 4))[0], dense)


def test_same_padding_of_any_size():
    """As many outputs as size / stride, rounded up, with the odd row at the end."""
    convolution = Convolution((2,), (1,), None)
    assert convolution.pads((5,), (3,)) == ((1, 1),)
    assert convolution.pads((6,), (3,)) == ((0, 1),)
    assert convolution.pads((6,), (1,)) == ((0, 0),)
    assert convolution.apply(drawn(1, 1, 3), drawn(1, 1, 7)).shape == (1, 1, 4)
