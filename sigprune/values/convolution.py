"""Convolutions: what a layer does with its kernel besides the kernel itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

from sigprune.base.errors import BadInput
from sigprune.values.layout import Shape

Border = Literal["zeros", "reflect", "replicate", "circular"]
Pads = tuple[tuple[int, int], ...]

_CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


@dataclass(frozen=True)
class Convolution:
    """Stride, padding and dilation of a convolution of one to three dimensions; all per axis of the kernel.

    Groups are no part of it: the blocks of a grouped kernel are convolutions of their own.

    Attributes:
        stride: step between outputs (between inputs, if ``transposed``).
        dilation: distance between taps.
        padding: what is added before and after each axis; None: as much, for any size, that there are
            ceil(size / stride) outputs (TensorFlow's ``SAME``, the odd one at the end).
        border: what the padding holds.
        transposed: the adjoint of a convolution.
        output_padding: of a transposed one, rows added at the end of the output.

    Example:
        >>> import torch
        >>> halving = Convolution(stride=(2,), dilation=(1,), padding=((1, 1),))
        >>> halving.apply(torch.ones(1, 1, 3), torch.arange(6.0).reshape(1, 1, 6))
        tensor([[[ 1.,  6., 12.]]])
    """

    stride: Shape
    dilation: Shape
    padding: Pads | None
    border: Border = "zeros"
    transposed: bool = False
    output_padding: Shape = ()

    def apply(self, kernel: Tensor, inputs: Tensor, groups: int = 1) -> Tensor:
        """The convolution of a batch, without a bias; linear in ``inputs``.

        Args:
            kernel: as torch stores it: (out, in / groups, *kernel), or (in, out / groups, *kernel) if
                ``transposed``.
            inputs: (examples, in, *size).
            groups: number of convolution groups.

        Returns:
            (examples, out, *size of the output).

        Raises:
            BadInput: a kernel of other than one to three dimensions.
        """
        axes = kernel.dim() - 2
        if axes not in _CONVOLVE:
            raise BadInput(f"expected a kernel of one to three dimensions, got shape {tuple(kernel.shape)}")
        if self.transposed:
            cut = [before for before, _ in self.padding or ()]
            extra = self.output_padding or (0,) * axes
            return _TRANSPOSED[axes](inputs, kernel, None, self.stride, cut, extra, groups, self.dilation)
        pads = self.pads(tuple(inputs.shape[2:]), tuple(kernel.shape[2:]))
        if any(map(any, pads)):
            flat = [side for pair in reversed(pads) for side in pair]
            inputs = functional.pad(inputs, flat, "constant" if self.border == "zeros" else self.border)
        return _CONVOLVE[axes](inputs, kernel, None, self.stride, 0, self.dilation, groups)

    def pads(self, size: Shape, kernel: Shape) -> Pads:
        """What is added before and after each axis of an input of this size."""
        if self.padding is not None:
            return self.padding
        found = []
        for length, taps, stride, dilation in zip(size, kernel, self.stride, self.dilation, strict=True):
            reach = (-(-length // stride) - 1) * stride + (taps - 1) * dilation + 1
            total = max(reach - length, 0)
            found.append((total // 2, total - total // 2))
        return tuple(found)
