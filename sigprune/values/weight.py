"""Weights: tensors that can be initialised or pruned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sigprune.values.layout import Layout, Shape

Role = Literal["linear", "conv", "embedding", "head", "attention", "expert", "recurrent"]


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
        standardised: the module standardises the weight before use, so that stored zeros do not stay zeros.
        magnitude: state-dict key of the norms by which the module scales the weight's normalised direction
            (weight normalisation), if it does.
    """

    name: str
    shape: Shape
    layout: Layout
    role: Role
    stage: str = ""
    bias: str | None = None
    tied: tuple[str, ...] = ()
    standardised: bool = False
    magnitude: str | None = None

    @property
    def count(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)
