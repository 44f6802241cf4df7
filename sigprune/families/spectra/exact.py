"""All singular values, from the rows of the map, or from its columns where they are fewer."""

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
    at_once: Count = 16,
    most_products: Count = 4096,
    most_gib: Positive = 8.0,
) -> Spectrum:
    """min(outputs, inputs) float64 singular values per example; NaN where the map is not finite.

    ``at_once`` products are batched; 1 batches none, for operations that cannot be. The values come from the
    triangular factor of each example's transposed matrix, which keeps small ones accurate. Cost: min(outputs,
    inputs) products, backward passes for rows and forward-mode passes for columns. Memory: the whole map in
    the operator's dtype, and one example of it twice in float64.

    Raises:
        BadInput: it takes more than ``most_products``, or the map more than ``most_gib`` GiB.
    """
    del generator  # nothing is random here
    if operator.shape[0] > operator.shape[1]:
        operator = operator.adjoint
    small, large = operator.shape
    if small > most_products:
        raise BadInput(
            f"an exact spectrum takes {small} products, over the limit most_products={most_products}; "
            "an estimate takes fewer (recipe: measure.method)"
        )
    needed = operator.examples * small * large * operator.dtype.itemsize / 2**30
    if needed > most_gib:
        raise BadInput(
            f"an exact spectrum of {operator.examples} maps of {small} x {large} takes {needed:.1f} GiB, "
            f"over the limit most_gib={most_gib:g}; take fewer examples (recipe: measure.examples)"
        )
    rows = torch.empty(operator.examples, small, large, dtype=operator.dtype, device=operator.device)
    for start in range(0, small, at_once):
        products = operator.rmatmat(_unit_vectors(operator, start, min(start + at_once, small)))
        rows[:, start : start + len(products)] = products.transpose(0, 1)
    values = torch.stack([singular_values(example) for example in rows])
    return Spectrum(values, top=values, method=f"all {small} singular values")


def _unit_vectors(operator: Operator, start: int, end: int) -> Tensor:
    units = torch.zeros(end - start, operator.shape[0], dtype=operator.dtype, device=operator.device)
    units[:, start:end].fill_diagonal_(1.0)
    return units[:, None].expand(-1, operator.examples, -1)
