"""One factor per block: the one that gives it the second moment of the orthogonal block before pruning."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprune.values.orthogonality import residual

PAPER = "after Hayou et al. 2021, arXiv 2002.08797"


def restore(blocks: Tensor, keep: Tensor) -> Tensor:
    """The squared singular values of (out, in · taps) sum to min(out, in · taps) again.

    A block whose residual that would raise (its singular values are too uneven) stays as it is. No
    iteration; the baseline for members that move single entries. Since the blocks of sparse networks are
    uneven, most of them stay: this does not restore the scale of a network, for which ``lbfgs`` (whose values
    have it) or :func:`sigprune.calibrate_` is the way.
    """
    matrices = blocks.masked_fill(~keep, 0.0).flatten(2)
    moment = matrices.square().sum((1, 2), keepdim=True) / min(matrices.shape[1:])
    scaled = matrices / torch.where(moment > 0, moment, 1.0).sqrt()
    better = residual(scaled) < residual(matrices)
    return torch.where(better[:, None, None], scaled, matrices).reshape(blocks.shape)
