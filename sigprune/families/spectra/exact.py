"""All singular values, from the rows of the map, or from its columns where they are fewer."""

from __future__ import annotations

import torch

from sigprune.base.registry import Count, Positive
from sigprune.families.spectra._exact import exact_spectrum
from sigprune.values.operator import Operator
from sigprune.values.spectrum import Spectrum

PAPER = "Lee et al. 2020, arXiv 1906.06307, section 3"


def measure(
    operator: Operator,
    generator: torch.Generator,
    *,
    at_once: Count = 16,
    max_products: Count = 4096,
    max_memory_gib: Positive = 8.0,
) -> Spectrum:
    """min(outputs, inputs) float64 singular values per example; NaN where the map is not finite.

    ``at_once`` products are batched; 1 batches none, for operations that cannot be. The values come from the
    triangular factor of each example's transposed matrix, which keeps small ones accurate. Cost: min(outputs,
    inputs) products, backward passes for rows and forward-mode passes for columns. Memory: the whole map in
    the operator's dtype, and a block of it in float64.

    Raises:
        BadInput: it takes more than ``max_products``, or the map more than ``max_memory_gib`` GiB.
    """
    del generator  # nothing is random here
    return exact_spectrum(operator, at_once, max_products, max_memory_gib)
