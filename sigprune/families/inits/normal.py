"""Independent normal entries of one standard deviation, whatever the shape: for tables that are looked up."""

from __future__ import annotations

from torch import Tensor

from sigprune.base.registry import Positive
from sigprune.values.block_spec import BlockSpec

PAPER = "Devlin et al. 2019, arXiv 1810.04805 (BERT's 0.02 for every matrix)"


def init(spec: BlockSpec, *, std: Positive = 0.02) -> Tensor:
    """Entries from N(0, std²)."""
    return spec.gaussian() * std
