"""Data sets: ``load(*, ...) -> Data`` reads labelled images (or makes noise) without a training framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sigprune.base.lazy import lazy_names
from sigprune.base.registry import Family
from sigprune.values.preprocessing import Normalisation

if TYPE_CHECKING:
    from torch import Tensor

    from sigprune.families.datasets._shared import standardise as standardise
    from sigprune.families.datasets._shared import standardise_pixels as standardise_pixels


@dataclass(frozen=True, eq=False)
class Data:
    """A train and a test split in memory.

    Attributes:
        train: images float32 (examples, channels, height, width), standardised with the statistics of the
            train split, and integer labels (examples,).
        test: likewise, standardised with the same statistics; None where there is no test split.
        classes: class names, in label order.
        source: where it comes from, in words, for reports and cards.
        normalisation: of 8-bit images, the statistics that they were standardised with; None where the data
            are no 8-bit images, so that no image file holds one.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor] | None
    classes: tuple[str, ...]
    source: str
    normalisation: Normalisation | None = None


class Dataset(Protocol):
    """A member: ``load(*, options)`` returns the data, the same at every call.

    Raises :class:`~sigprune.base.errors.DataError` with what to install or where to put files.
    """

    PAPER: str
    load: Callable[..., Data]


datasets: Family[Dataset] = Family(__name__, "data set", "load")

__getattr__ = lazy_names(__name__, {"standardise": "_shared", "standardise_pixels": "_shared"})
