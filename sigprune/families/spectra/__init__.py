"""Spectra: ``measure(operator, generator, *, ...) -> Spectrum`` finds or estimates singular values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from sigprune.base.lazy import lazy_names
from sigprune.base.registry import Family

if TYPE_CHECKING:
    from sigprune.families.spectra._shared import singular_values as singular_values
    from sigprune.values.spectrum import Spectrum


class Method(Protocol):
    """A member: ``measure(operator, generator, *, options)``; an estimate carries its standard error."""

    PAPER: str
    measure: Callable[..., Spectrum]


spectra: Family[Method] = Family(__name__, "spectrum method", "measure")

__getattr__ = lazy_names(__name__, {"singular_values": "_shared"})
