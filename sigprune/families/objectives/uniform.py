"""Cross-entropy with the uniform target 1/classes (unsupervised pruning)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from sigprune.values.batch import Batch

NEEDS: Literal["inputs"] = "inputs"
PAPER = "Lee et al. 2020, arXiv 1906.06307, section 5"


def objective(output: Tensor, batch: Batch) -> Tensor:  # noqa: ARG001 - the contract of the family
    """Mean over examples and classes of -log softmax(output)."""
    return -functional.log_softmax(output, dim=-1).mean()
