"""All singular values, from the rows of the map (one backward pass per output)."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.base.family import Count, Positive
from sigprune.families.spectra._shared import singular_values
from sigprune.values.operator import Operator
from sigprune.values.spectrum import Spectrum

PAPER = "Lee et al. 2020, arXiv 1906.06307, section 3"


def measure(
    operator: Operator,
    generator: torch.Generator,
    *,
    rows_at_once: Count = 16,
    most_rows: Count = 4096,
    most_gib: Positive = 8.0,
) -> Spectrum:
    """min(outputs, inputs) float64 singular values per example; NaN where the map is not finite.

    ``rows_at_once`` backward passes are batched; 1 batches none, for operations that cannot be. The values
    come from the triangular factor of each example's transposed matrix, which keeps small ones accurate.
    Memory: the whole map in the operator's dtype, and one example of it twice in float64.

    Raises:
        BadInput: the map has more than ``most_rows`` outputs, or takes more than ``most_gib`` GiB.
    """
    del generator  # nothing is random here
    outputs, inputs = operator.shape
    if outputs > most_rows:
        raise BadInput(
            f"an exact spectrum takes {outputs} backward passes, over the limit most_rows={most_rows}"
        )
    needed = operator.examples * outputs * inputs * operator.dtype.itemsize / 2**30
    if needed > most_gib:
        raise BadInput(
            f"an exact spectrum of {operator.examples} maps of {outputs} x {inputs} takes {needed:.1f} GiB, "
            f"over the limit most_gib={most_gib:g}; take fewer examples (recipe: measure.examples)"
        )
    rows = torch.empty(operator.examples, outputs, inputs, dtype=operator.dtype, device=operator.device)
    for start in range(0, outputs, rows_at_once):
        products = operator.rmatmat(_unit_vectors(operator, start, min(start + rows_at_once, outputs)))
        rows[:, start : start + len(products)] = products.transpose(0, 1)
    return Spectrum(torch.stack([singular_values(example) for example in rows]))


def _unit_vectors(operator: Operator, start: int, end: int) -> Tensor:
    units = torch.zeros(end - start, operator.shape[0], dtype=operator.dtype, device=operator.device)
    units[:, start:end].fill_diagonal_(1.0)
    return units[:, None].expand(-1, operator.examples, -1)
