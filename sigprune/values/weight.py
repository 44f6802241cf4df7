"""Weights: tensors that can be initialised or pruned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sigprune.base.tensors import Tensors
from sigprune.values.convolution import Convolution
from sigprune.values.layout import Layout, Shape

Role = Literal["linear", "conv", "embedding", "head", "attention", "expert", "recurrent"]


@dataclass(frozen=True)
class Standardisation:
    """Weight standardisation: the forward pass uses ``scale · gain · (w - mean) / sqrt(variance + eps)``.

    Mean and (biased) variance are those of one output's filter. Qiao et al. 2019, arXiv 1903.10520; with a
    scale and a gain Brock et al. 2021, arXiv 2101.08692.

    Attributes:
        eps: added to the variance.
        scale: a constant of the layer.
        gain: state-dict key of a factor for each output, if there is one.
    """

    eps: float
    scale: float = 1.0
    gain: str | None = None


@dataclass(frozen=True)
class Weight:
    """One prunable or initialisable tensor of a model.

    Attributes:
        name: its canonical state-dict key.
        shape: its stored shape.
        layout: where its blocks sit.
        role: what it does in the network.
        stage: the part of the network it belongs to (the children of the root, in order of definition).
        bias: state-dict key of the bias that belongs to it, if any.
        tied: other state-dict keys of the same tensor.
        standardised: how the module standardises the weight before use, if it does: stored zeros do not stay
            zeros then.
        padding: rows of a look-up table that stand for padding: its modules keep them at zero.
        longest: the largest norm of a row that a look-up table's module allows, and which norm it is, if it
            scales longer rows down when it looks them up.
        magnitude: state-dict key of the norms by which the module scales the weight's normalised direction
            (weight normalisation), if it does.
        divided: axes over which the module takes the norms that it divides the weight by: all but that of the
            outputs (weight normalisation), all (spectral normalisation); None if it divides by none. Entries
            that share a norm are a filter, and a filter of zeros would be 0 / 0.
        convolution: what the module does with the kernel, if it is a convolution of a known kind.
    """

    name: str
    shape: Shape
    layout: Layout
    role: Role
    stage: str = ""
    bias: str | None = None
    tied: tuple[str, ...] = ()
    standardised: Standardisation | None = None
    padding: tuple[int, ...] = ()
    longest: tuple[float, float] | None = None
    magnitude: str | None = None
    divided: tuple[int, ...] | None = None
    convolution: Convolution | None = None

    @property
    def count(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def block_count(self) -> int:
        """Number of blocks."""
        return sum(1 for _ in self.layout.blocks(torch.empty(self.shape, device="meta")))

    @property
    def depthwise(self) -> bool:
        """Whether every block is the kernel of one channel."""
        if len(self.shape) < 3 or self.layout.groups == 1:
            return False
        inputs = self.shape[0] // self.layout.groups if self.layout.transposed else self.shape[1]
        return inputs == 1

    @property
    def filters(self) -> int:
        """How many filters have a norm of their own; 0 where the weight is divided by none."""
        if self.divided is None:
            return 0
        return self.count // max(math.prod(self.shape[axis] for axis in self.divided), 1)

    def empty_filters(self, nonzero: Tensor) -> int:
        """How many filters hold nothing.

        Args:
            nonzero: a boolean tensor of the stored shape, True where an entry is not zero.
        """
        if self.divided is None:
            return 0
        return self.filters - int(nonzero.sum(self.divided).count_nonzero())

    def effective(self, params: Tensors) -> Tensor:
        """The values that the forward pass uses, in float64 and the stored shape.

        They differ from the stored ones under weight standardisation and weight normalisation.

        Args:
            params: every parameter of the model by name.
        """
        stored = params[self.name].detach().double()
        if self.magnitude is not None:
            size = params[self.magnitude].detach().double()
            axes = [axis for axis, length in enumerate(size.shape) if length == 1]
            used: Tensor = stored * (size / torch.linalg.vector_norm(stored, dim=axes, keepdim=True))
            return used
        if self.standardised is None:
            return stored
        how, filters = self.standardised, stored.flatten(1)
        variance, mean = torch.var_mean(filters, dim=1, correction=0, keepdim=True)
        used = how.scale * (filters - mean) / (variance + how.eps).sqrt()
        if how.gain is not None:
            used = used * params[how.gain].detach().double().reshape(-1, 1)
        return used.reshape(stored.shape)
