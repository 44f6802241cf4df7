"""Convolutions as linear maps of whole images: exact values under circular padding, products for any."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.values.convolution import Convolution
from sigprune.values.layout import Shape
from sigprune.values.operator import Operator


def convolution_operator(convolution: Convolution, blocks: Tensor, size: Shape) -> Operator:
    """The map of an image, with the padding, stride and dilation that the layer really uses.

    One map for each block: the blocks of a grouped kernel do not see each other, so that they are the
    operator's examples. A product costs one convolution, ``rmatmat`` the backward pass of one, for all
    vectors of a call at once.

    Args:
        convolution: what the layer does.
        blocks: (count, out, in, *kernel), on any device; products come in its dtype.
        size: of the layer's input, per axis.

    Returns:
        Operator with shape (out · prod(output size), in · prod(size)) and ``count`` examples.

    Raises:
        BadInput: the layer cannot be applied to an input of this size.

    Example:
        >>> kernel = torch.tensor([1.0, 2.0]).reshape(1, 1, 1, 2)
        >>> operator = convolution_operator(Convolution((1,), (1,), ((0, 0),)), kernel, (3,))
        >>> operator.matmat(torch.tensor([[[1.0, 0.0, 3.0]]]))
        tensor([[[1., 6.]]])
    """
    blocks = blocks.detach()
    count, out, channels = blocks.shape[:3]
    stored = (blocks.transpose(1, 2) if convolution.transposed else blocks).flatten(0, 1).contiguous()

    def run(images: Tensor) -> Tensor:
        return convolution.apply(stored, images.reshape(-1, count * channels, *size), count)

    try:
        with torch.no_grad():
            reached = run(blocks.new_zeros(1, count * channels, *size)).shape
    except (RuntimeError, ValueError) as error:
        raise BadInput(
            f"a kernel of {tuple(blocks.shape[3:])} cannot be applied to {size}: {error}"
        ) from error
    outputs, inputs = out * math.prod(reached[2:]), channels * math.prod(size)

    def matmat(vectors: Tensor) -> Tensor:
        with torch.no_grad():
            return run(vectors).reshape(-1, count, outputs)

    def rmatmat(cotangents: Tensor) -> Tensor:
        with torch.enable_grad():  # the map is linear: its derivative at any point is itself
            images = blocks.new_zeros(len(cotangents), count, inputs).requires_grad_()
            reply = run(images)
        (adjoint,) = torch.autograd.grad(reply, images, cotangents.reshape(reply.shape))
        return adjoint

    return Operator((outputs, inputs), count, matmat, rmatmat, blocks.dtype, blocks.device)


def circular_values(
    convolution: Convolution, blocks: Tensor, size: Shape, *, max_memory_gib: float = 1.0
) -> Tensor:
    """All singular values of the convolution if its padding were circular, in closed form.

    A circular convolution is block circulant: the Fourier transform splits it into one matrix (out, in) for
    each frequency. With a stride, s frequencies of each axis fold onto one of the output's, and the matrix
    is (out, in · prod(stride)). Frequencies of opposite sign have the same values and are taken once; an axis
    whose patches do not overlap (taps within the stride, as in a 1x1 kernel or a patch embedding) has the
    same values at all. Cost: a complex float64 SVD for each of those; memory: ``max_memory_gib``, and the
    values.

    Args:
        convolution: its stride and dilation are used, its padding is not.
        blocks: (count, out, in, *kernel).
        size: of the layer's input; sides are rounded up to a multiple of the stride.
        max_memory_gib: bound on the memory of the Fourier matrices, in GiB.

    Returns:
        Float64, shape (count, min(outputs, inputs)), descending, on the CPU: zeros included.

    Raises:
        BadInput: ``size`` has not one positive side for each axis of the kernel.

    Source: Sedghi, Gupta and Long 2019, arXiv 1805.10408, Theorem 6 (stride 1).

    Example:
        >>> blur = torch.tensor([0.75, 0.25]).reshape(1, 1, 1, 2)
        >>> circular_values(Convolution((1,), (1,), None), blur, (4,))
        tensor([[1.0000, 0.7906, 0.7906, 0.5000]], dtype=torch.float64)
    """
    kernel = tuple(blocks.shape[3:])
    if len(size) != len(kernel) or min(size, default=0) < 1:
        raise BadInput(f"expected a positive side for each axis of the kernel {kernel}, got {size}")
    blocks = blocks.detach()
    if convolution.transposed:  # the adjoint of the convolution that leads back
        blocks = blocks.transpose(1, 2)
        counts = size
    else:
        counts = tuple(-(-side // stride) for side, stride in zip(size, convolution.stride, strict=True))
    waves, repeats = [], 1
    for taps, count, stride, dilation in zip(
        kernel, counts, convolution.stride, convolution.dilation, strict=True
    ):
        apart = dilation * (taps - 1) < stride
        repeats *= count if apart else 1
        waves.append(_waves(taps, 1 if apart else count, stride, dilation))
    values = _of_frequencies(blocks, waves, max_memory_gib)
    return values.repeat_interleave(repeats, 1).sort(1, descending=True).values.cpu()


def _waves(taps: int, count: int, stride: int, dilation: int) -> Tensor:
    """exp(-2πi f t / N) / sqrt(stride), shape (stride, count, taps), for N = count · stride frequencies f.

    Those that fold onto one of the output's frequencies stand below each other.
    """
    frequencies = torch.arange(count * stride, dtype=torch.float64)
    places = dilation * torch.arange(taps, dtype=torch.float64)
    turns = torch.outer(frequencies, places).remainder(count * stride) / (count * stride)
    waves = torch.polar(torch.full_like(turns, stride**-0.5), -2 * math.pi * turns)
    return waves.reshape(stride, count, taps)


def _of_frequencies(blocks: Tensor, waves: Sequence[Tensor], max_memory_gib: float) -> Tensor:
    """Values of the matrices of every frequency of the output, shape (blocks, values), in no order."""
    kernel = blocks.flatten(3).to(torch.complex128)
    counts = tuple(wave.shape[1] for wave in waves)
    grid = torch.cartesian_prod(*(torch.arange(n) for n in counts)).reshape(-1, len(counts))
    weights = torch.tensor([math.prod(counts[axis + 1 :]) for axis in range(len(counts))])
    opposite = ((-grid).remainder(torch.tensor(counts)) * weights).sum(1)
    once = (opposite >= torch.arange(len(grid))).nonzero()[:, 0]
    folded = math.prod(len(wave) for wave in waves)
    each = 2 * 16 * folded * (kernel[..., 0].numel() + kernel.shape[-1])
    most = max(1, int(max_memory_gib * 2**30 / each))
    found = [torch.linalg.svdvals(_matrices(kernel, waves, grid[part])) for part in once.split(most)]
    values = torch.cat(found, 1)
    place = torch.empty(len(grid), dtype=torch.long)
    place[once] = torch.arange(len(once))
    place[opposite[once]] = torch.arange(len(once))
    return values[:, place.to(values.device)].flatten(1)


def _matrices(kernel: Tensor, waves: Sequence[Tensor], frequencies: Tensor) -> Tensor:
    """The matrix (out, in · folded) of each block at each of some frequencies (given per axis)."""
    phases = torch.ones(1, len(frequencies), 1, dtype=kernel.dtype)
    for axis, wave in enumerate(waves):
        chosen = wave[:, frequencies[:, axis]]
        phases = torch.einsum("sfk,tfl->stfkl", phases, chosen).flatten(0, 1).flatten(2)
    matrices = torch.einsum("boik,sfk->bfois", kernel, phases.to(kernel.device))
    return matrices.flatten(3)
