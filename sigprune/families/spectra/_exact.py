"""The exact spectrum: every row of the map is taken."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.families.spectra._shared import singular_values, small_side_first
from sigprune.values.operator import Operator
from sigprune.values.spectrum import Spectrum


def map_gib(operator: Operator) -> float:
    """GiB that the maps of all examples take."""
    return operator.examples * operator.shape[0] * operator.shape[1] * operator.dtype.itemsize / 2**30


def exact_spectrum(operator: Operator, at_once: int, max_products: int, max_memory_gib: float) -> Spectrum:
    """See the member ``exact``."""
    operator = small_side_first(operator)
    small, large = operator.shape
    if small > max_products:
        raise BadInput(
            f"an exact spectrum takes {small} products, over the limit max_products={max_products}; "
            "an estimate takes fewer (recipe: measure.method)"
        )
    if map_gib(operator) > max_memory_gib:
        raise BadInput(
            f"an exact spectrum of {operator.examples} maps of {small} x {large} takes "
            f"{map_gib(operator):.3g} GiB, over the limit max_memory_gib={max_memory_gib:g}; take fewer "
            "examples (recipe: measure.examples)"
        )
    rows = torch.empty(operator.examples, small, large, dtype=operator.dtype, device=operator.device)
    for start in range(0, small, at_once):
        products = operator.rmatmat(_unit_vectors(operator, start, min(start + at_once, small)))
        rows[:, start : start + len(products)] = products.transpose(0, 1)
    values = torch.stack([singular_values(example) for example in rows])
    return Spectrum(values, top=values, method=f"exact: all {small} values")


def _unit_vectors(operator: Operator, start: int, end: int) -> Tensor:
    units = torch.zeros(end - start, operator.shape[0], dtype=operator.dtype, device=operator.device)
    units[:, start:end].fill_diagonal_(1.0)
    return units[:, None].expand(-1, operator.examples, -1)
