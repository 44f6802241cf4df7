"""Cross-entropy with the true labels (supervised pruning)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from sigprune.base.errors import DataError, NeedsData
from sigprune.values.batch import Batch

NEEDS: Literal["labels"] = "labels"
PAPER = "Lee et al. 2019, arXiv 1810.02340"


def objective(output: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy.

    Raises:
        NeedsData: the batch has no labels.
        DataError: the labels do not fit the output.
    """
    labels = batch.labels
    if labels is None:
        raise NeedsData("the objective 'labels' needs (inputs, labels); 'uniform' does without labels")
    if output.dim() != 2 or labels.shape != output.shape[:1] or labels.is_floating_point():
        raise DataError(
            "the objective 'labels' expects an output (examples, classes) and integer labels (examples,), "
            f"got {tuple(output.shape)} and {tuple(labels.shape)} of {labels.dtype}"
        )
    return functional.cross_entropy(output, labels.long())
