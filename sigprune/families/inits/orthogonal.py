"""Random orthogonal matrices; a convolution kernel is flattened to (out, in · prod(kernel))."""

from __future__ import annotations

from torch import Tensor

from sigprune.base.registry import Positive
from sigprune.families.inits._shared import semi_orthogonal
from sigprune.values.block_spec import BlockSpec

PAPER = "Saxe et al. 2014, arXiv 1312.6120; Lee et al. 2020, arXiv 1906.06307, section 4"


def init(spec: BlockSpec, *, gain: Positive = 1.0) -> Tensor:
    """Every singular value of the flattened block equals ``gain`` (1.0 for every activation in the paper).

    Cost: one QR of the flattened block in float64.
    """
    return gain * semi_orthogonal(spec, spec.shape[0], spec.fan_in).reshape(spec.shape)
