"""Spectra: ``measure(operator, generator, *, ...) -> Spectrum`` finds or estimates singular values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from sigprune.base.family import Family

if TYPE_CHECKING:
    from sigprune.values.spectrum import Spectrum


class Method(Protocol):
    """A member: ``measure(operator, generator, *, options)``; an estimate carries its standard error."""

    PAPER: str
    measure: Callable[..., Spectrum]


spectra: Family[Method] = Family(__name__, "spectrum method", "measure")
