"""Cross-entropy with the true labels (supervised pruning)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from sigprune.base.errors import DataError, NeedsData
from sigprune.families.objectives._shared import cross_entropy, known
from sigprune.values.batch import Batch

NEEDS: Literal["labels"] = "labels"
PAPER = "Lee et al. 2019, arXiv 1810.02340"


def objective(output: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy over the examples, or over the tokens, whose label is not -100.

    Labels of tokens are taken where they stand (token classification, masked tokens that the caller
    prepared); ``next_token`` shifts. Padding is what has the label -100.

    Raises:
        NeedsData: the batch has no labels.
        DataError: the labels do not fit the output.
    """
    labels = batch.labels
    if labels is None:
        raise NeedsData("the objective 'labels' needs (inputs, labels); 'uniform' does without labels")
    if output.dim() not in {2, 3} or labels.shape != output.shape[:-1] or labels.is_floating_point():
        raise DataError(
            "the objective 'labels' expects an output (examples, classes) and integer labels (examples,), or "
            "(examples, tokens, classes) and (examples, tokens); "
            f"got {tuple(output.shape)} and {tuple(labels.shape)} of {labels.dtype}"
        )
    return cross_entropy(output.reshape(-1, output.shape[-1]), labels.reshape(-1), "labels")


def predictions(_output: Tensor, batch: Batch) -> int:
    """Examples, or tokens, that have a label."""
    return len(batch) if batch.labels is None else known(batch.labels)
