"""Cross-entropy with the network's own softmax as the target: the entropy of the prediction."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from sigprune.families.objectives._shared import rows
from sigprune.values.batch import Batch

NEEDS: Literal["inputs"] = "inputs"
PAPER = "Lee et al. 2020, arXiv 1906.06307, section 5 (Pred. (softmax); the definition is ours)"


def objective(output: Tensor, batch: Batch) -> Tensor:
    """Mean over examples (or tokens without padding) of H(softmax(z)) = -Σ softmax(z) · log softmax(z).

    The paper names this target without a formula: the definition is ours. A target held fixed gives a
    gradient softmax(z) - target of exactly zero, so that the target is differentiated too.

    Raises:
        DataError: the output has another shape, or its padding cannot be told.
    """
    logs = functional.log_softmax(rows(output, batch, "prediction_softmax"), dim=-1)
    return -(logs.exp() * logs).sum(-1).mean()
