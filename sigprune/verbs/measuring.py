"""Measuring the singular values of an operator."""

from __future__ import annotations

from types import ModuleType

from sigprune.base.family import Step
from sigprune.base.seeds import generator
from sigprune.families.spectra import spectra
from sigprune.values.operator import Operator
from sigprune.values.spectrum import Spectrum


def measure(operator: Operator, method: str | Step | ModuleType = "exact", *, seed: int = 0) -> Spectrum:
    """Singular values of an operator, found or estimated.

    Args:
        operator: for example ``jacobian(view, batch)``.
        method: a member of the spectra family.
        seed: for methods that draw probes.

    Returns:
        Spectrum with values of shape (examples, values per example).

    Example:
        >>> import torch
        >>> from sigprune import describe, jacobian, measure, reinit_
        >>> view = describe(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)))
        >>> _ = reinit_(view, "orthogonal")
        >>> round(measure(jacobian(view, torch.randn(2, 8))).summary().mean, 5)
        1.0
    """
    choice = spectra.choose(method)
    return choice.member.measure(operator, generator(seed, "measure"), **choice.options)
