"""Measuring the singular values of an operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

from torch import Tensor

from sigprune.base.family import Step
from sigprune.base.progress import Tell, ignore
from sigprune.base.seeds import generator
from sigprune.families.spectra import spectra
from sigprune.values.operator import Operator
from sigprune.values.spectrum import Spectrum


def measure(
    operator: Operator,
    method: str | Step | ModuleType = "auto",
    *,
    seed: int = 0,
    report: Tell = ignore,
) -> Spectrum:
    """Singular values of an operator, found or estimated.

    Args:
        operator: for example ``jacobian(view, batch)``.
        method: a member of the spectra family; ``auto`` is exact where that is affordable, else an estimate
            from few products, and says so in ``Spectrum.method``.
        seed: for methods that draw probes.
        report: called with (products taken, products of an exact spectrum); with both equal at the end.

    Returns:
        Spectrum; an exact one has all values, shape (examples, values per example). What an estimate does not
        tell is NaN in its summary.

    Raises:
        BadInput: more products or memory than the method's options allow.

    Example:
        >>> import torch
        >>> from sigprune import describe, jacobian, measure, reinit_
        >>> view = describe(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)))
        >>> _ = reinit_(view, "orthogonal")
        >>> round(measure(jacobian(view, torch.randn(2, 8))).summary().mean, 5)
        1.0
    """
    choice = spectra.choose(method)
    spectrum = choice.member.measure(_told(operator, report), generator(seed, "measure"), **choice.options)
    report(min(operator.shape), min(operator.shape))
    return spectrum


def _told(operator: Operator, report: Tell) -> Operator:
    """The same operator; it tells how many products were taken, of those that an exact spectrum takes."""
    taken, most = 0, min(operator.shape)

    def counting(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def counted(vectors: Tensor) -> Tensor:
            nonlocal taken
            products = product(vectors)
            taken = min(taken + len(vectors), most)
            report(taken, most)
            return products

        return counted

    return replace(operator, matmat=counting(operator.matmat), rmatmat=counting(operator.rmatmat))
