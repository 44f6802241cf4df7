"""LeCun initialisation: independent normal entries with variance gain² / fan_in."""

from __future__ import annotations

import math

from torch import Tensor

from sigprune.base.registry import Positive
from sigprune.values.block_spec import BlockSpec

PAPER = "LeCun et al. 1998, Efficient BackProp"


def init(spec: BlockSpec, *, gain: Positive = 1.0) -> Tensor:
    """Keeps the second moment of the forward signal through linear layers."""
    return spec.gaussian() * (gain * math.sqrt(1.0 / spec.fan_in))
