"""An orthogonal matrix at the centre of the kernel, zeros elsewhere: the convolution itself is isometric."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprune.base.registry import Positive
from sigprune.families.inits._shared import semi_orthogonal
from sigprune.values.block_spec import BlockSpec

PAPER = "Xiao et al. 2018, arXiv 1806.05393, Algorithm 2"


def init(spec: BlockSpec, *, gain: Positive = 1.0) -> Tensor:
    """Singular values ``gain`` of the convolution operator at stride 1; ``orthogonal`` without a kernel.

    The paper asks for in <= out; with in > out the matrix is co-isometric (orthonormal rows).
    """
    out, channels, *kernel = spec.shape
    block = torch.zeros(spec.shape, dtype=torch.float64)
    centre = block
    for size in kernel:  # each step takes the middle of the first kernel axis that is left
        centre = centre.select(2, (size - 1) // 2)
    centre[:] = gain * semi_orthogonal(spec, out, channels)
    return block
