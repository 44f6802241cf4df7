"""All singular values where that is affordable, else Lanczos' estimate; says what was chosen and why."""

from __future__ import annotations

from dataclasses import replace

import torch

from sigprune.base.registry import Count, Positive
from sigprune.families.spectra._exact import exact_spectrum, map_gib
from sigprune.families.spectra._lanczos import lanczos_spectrum
from sigprune.values.operator import Operator
from sigprune.values.spectrum import Spectrum

PAPER = "none: exact or lanczos"


def measure(
    operator: Operator,
    generator: torch.Generator,
    *,
    max_products: Count = 512,
    max_memory_gib: Positive = 8.0,
    at_once: Count = 16,
    steps: Count = 30,
    probes: Count = 1,
) -> Spectrum:
    """As ``exact`` if it takes at most ``max_products`` and ``max_memory_gib``, else as ``lanczos``.

    Cost and memory are theirs: min(outputs, inputs) products and the whole map, or 2 steps products per probe
    and the Lanczos vectors.

    Raises:
        BadInput: neither the map nor the Lanczos vectors fit into ``max_memory_gib`` GiB.
    """
    products, gib = min(operator.shape), map_gib(operator)
    if products <= max_products and gib <= max_memory_gib:
        return exact_spectrum(operator, at_once, max_products, max_memory_gib)
    limit = (
        f"{products} products, over max_products={max_products}"
        if products > max_products
        else f"{gib:.3g} GiB, over max_memory_gib={max_memory_gib:g}"
    )
    spectrum = lanczos_spectrum(
        operator, generator, steps=steps, probes=probes, top=10, max_memory_gib=max_memory_gib
    )
    return replace(spectrum, method=f"{spectrum.method}; an exact spectrum takes {limit}")
