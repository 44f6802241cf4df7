"""The largest singular values with error bounds, and the density of all of them, from few products."""

from __future__ import annotations

import torch

from sigprune.base.registry import Count, Positive
from sigprune.families.spectra._lanczos import lanczos_spectrum
from sigprune.values.operator import Operator
from sigprune.values.spectrum import Spectrum

PAPER = "Golub, Kahan 1965, doi 10.1137/0702016; quadrature: Ubaru, Chen, Saad 2017, doi 10.1137/16M1104974"


def measure(
    operator: Operator,
    generator: torch.Generator,
    *,
    steps: Count = 30,
    probes: Count = 1,
    top: Count = 10,
    max_memory_gib: Positive = 8.0,
) -> Spectrum:
    """Golub-Kahan bidiagonalisation from random vectors of the smaller side, orthogonalised twice in float64.

    ``values`` are the nodes of Gauss' quadrature rules with their shares of the min(outputs, inputs) singular
    values; ``top`` are the largest of them, never above the true ones (but for rounding), and some singular
    value is within ``bounds`` of each. Values that have converged count once each, so their share is not left
    to chance (Bhattacharjee et al. 2025, arXiv 2410.21690). Mean, mean square and gap carry the standard
    error over probes, together with half the distance between Gauss' and Gauss-Radau's rule. With as many
    steps as there are singular values, all are exact. Of a large value that occurs two or three times exactly
    a short run sees one: the errors do not know of the others. Cost: 2 steps products per probe, half of them
    forward-mode passes; probes and examples are batched. Memory: (outputs + inputs) steps float64 numbers per
    probe and example.

    Raises:
        BadInput: they take more than ``max_memory_gib`` GiB.
    """
    return lanczos_spectrum(
        operator, generator, steps=steps, probes=probes, top=top, max_memory_gib=max_memory_gib
    )
