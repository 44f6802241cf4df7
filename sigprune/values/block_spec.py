"""Slots: what an initialiser is given for one block of one weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sigprune.base.renamed import old_names
from sigprune.values.layout import Shape, fan_in, fan_out
from sigprune.values.weight import Role


@dataclass(frozen=True, eq=False)
class BlockSpec:
    """A block that waits for its values.

    Attributes:
        shape: (out, in, *kernel).
        role: the role of the weight that the block belongs to.
        generator: the block's own random stream, on the CPU.
        standardised: the module subtracts the mean of each output's filter and divides by its deviation:
            members whose matrices have structure give rows of zero mean and equal norm, which that only
            scales.
    """

    shape: Shape
    role: Role
    generator: torch.Generator
    standardised: bool = False

    @property
    def fan_in(self) -> int:
        """Inputs of one output unit, in · prod(kernel)."""
        return fan_in(self.shape)

    @property
    def fan_out(self) -> int:
        """Outputs of one input unit, out · prod(kernel)."""
        return fan_out(self.shape)

    def gaussian(self, *shape: int) -> Tensor:
        """Standard normal float64 draws from the block's stream (its own shape unless another is given)."""
        return torch.randn(shape or self.shape, generator=self.generator, dtype=torch.float64)


__getattr__ = old_names(__name__)
