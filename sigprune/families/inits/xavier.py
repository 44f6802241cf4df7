"""Glorot initialisation: independent normal entries with variance gain² · 2 / (fan_in + fan_out)."""

from __future__ import annotations

import math

from torch import Tensor

from sigprune.base.registry import Positive
from sigprune.values.block_spec import BlockSpec

PAPER = "Glorot and Bengio 2010, equation 12"


def init(spec: BlockSpec, *, gain: Positive = 1.0) -> Tensor:
    """A compromise between forward and backward second moments."""
    return spec.gaussian() * (gain * math.sqrt(2.0 / (spec.fan_in + spec.fan_out)))
