"""Cross-entropy with the true labels (supervised pruning)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from sigprune.base.errors import NeedsData
from sigprune.values.batch import Batch

NEEDS: Literal["labels"] = "labels"
PAPER = "Lee et al. 2019, arXiv 1810.02340"


def objective(output: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy.

    Raises:
        NeedsData: the batch has no labels.
    """
    if batch.labels is None:
        raise NeedsData("the objective 'labels' needs (inputs, labels); 'uniform' does without labels")
    return functional.cross_entropy(output, batch.labels)
