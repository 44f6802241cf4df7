"""He initialisation: independent normal entries with variance gain² · 2 / fan_in."""

from __future__ import annotations

import math

from torch import Tensor

from sigprune.base.registry import Positive
from sigprune.values.block_spec import BlockSpec

PAPER = "He et al. 2015, arXiv 1502.01852, equation 10"


def init(spec: BlockSpec, *, gain: Positive = 1.0) -> Tensor:
    """Keeps the second moment of the forward signal through ReLU layers."""
    return spec.gaussian() * (gain * math.sqrt(2.0 / spec.fan_in))
