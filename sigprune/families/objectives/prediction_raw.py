"""Cross-entropy with the network's own raw outputs as the target."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from sigprune.families.objectives._shared import rows
from sigprune.values.batch import Batch

NEEDS: Literal["inputs"] = "inputs"
PAPER = "Lee et al. 2020, arXiv 1906.06307, section 5 (Pred. (raw); the definition is ours)"


def objective(output: Tensor, batch: Batch) -> Tensor:
    """Mean over examples (or tokens without padding) and classes of -z · log softmax(z).

    The paper names this target without a formula: the definition is ours. The target is differentiated too,
    as in ``prediction_softmax``. It is no distribution: adding a constant to all outputs changes the value.

    Raises:
        DataError: the output has another shape, or its padding cannot be told.
    """
    raw = rows(output, batch, "prediction_raw")
    return -(raw * functional.log_softmax(raw, dim=-1)).mean()
