"""Cross-entropy with the uniform target 1/classes (unsupervised pruning)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from sigprune.families.objectives._shared import rows
from sigprune.values.batch import Batch

NEEDS: Literal["inputs"] = "inputs"
PAPER = "Lee et al. 2020, arXiv 1906.06307, section 5"


def objective(output: Tensor, batch: Batch) -> Tensor:
    """Mean over examples (or tokens without padding) and classes of -log softmax(output).

    Raises:
        DataError: the output has another shape, or its padding cannot be told.
    """
    return -functional.log_softmax(rows(output, batch, "uniform"), dim=-1).mean()
