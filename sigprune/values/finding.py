"""Findings: checked statements about a network, with their bounds and verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sigprune.base.errors import FindingFailed
from sigprune.base.readonly import ReadOnlyDict


@dataclass(frozen=True)
class Finding:
    """One measured value and the bounds it should keep.

    Attributes:
        name: what was checked.
        where: the weight, stage or moment it was checked at.
        value: what was measured.
        low: the smallest acceptable value.
        high: the largest acceptable value.
        required: whether a failure stops the run before training.
        remedy: what to try when it fails.

    Example:
        >>> Finding("mean_jsv", "after pruning", 0.004, 0.1, 10.0).ok
        False
    """

    name: str
    where: str
    value: float
    low: float
    high: float
    required: bool = False
    remedy: str = ""

    @property
    def ok(self) -> bool:
        """Whether the value keeps its bounds (NaN never does)."""
        return self.low <= self.value <= self.high

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "FAILED" if self.required else "warning"
        bounds = f"{self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"
        text = f"{verdict}: {self.name} is {self.value:.4g} ({self.where}), expected {bounds}"
        return text if self.ok or not self.remedy else f"{text}; {self.remedy}"


@dataclass(frozen=True)
class Findings:
    """Several findings, in the order they were made."""

    items: tuple[Finding, ...] = ()

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.items)

    def __add__(self, other: Findings) -> Findings:
        return Findings(self.items + other.items)

    @property
    def ok(self) -> bool:
        """Whether every required finding keeps its bounds."""
        return all(f.ok for f in self.items if f.required)

    def require(self) -> None:
        """Stop here when a required finding failed.

        Raises:
            FindingFailed: one line for each finding that failed.
        """
        failed = [str(f) for f in self.items if f.required and not f.ok]
        if failed:
            raise FindingFailed("\n".join(failed))


@dataclass(frozen=True)
class Bound:
    """The bounds that a finding must keep, and whether a failure stops the run."""

    low: float = -math.inf
    high: float = math.inf
    required: bool = False


BOUNDS: Mapping[str, Bound] = ReadOnlyDict({
    "finite_output": Bound(1.0, 1.0, required=True),
    "mean_jsv": Bound(0.1, 10.0),
    "condition_number": Bound(1.0, 1e6),
    "dead_weights": Bound(0.0, 0.0, required=True),
    "collapsed_weights": Bound(0.0, 0.0, required=True),
    "standardised_weights": Bound(0.0, 0.0),
    "effective_sparsity": Bound(0.0, 0.01),
    "dead_units": Bound(0.0, 0.5),
})
"""Every finding that :func:`sigprune.verify` knows, with its default bounds.

``finite_output`` is the share of finite outputs; ``mean_jsv`` and ``condition_number`` are those of the
singular values of the input-output Jacobian. ``dead_weights`` counts weights whose scores were all zero,
``collapsed_weights`` those without a kept entry, ``standardised_weights`` those in which zeros do not stay
zeros.

``effective_sparsity`` is the sparsity of the mask without the kept entries that lie on no path from the input
to the output; its bounds are relative to the sparsity of the mask itself: by default it may be at most 0.01
larger. ``dead_units`` is the share of the units (neurons, output channels) of the pruned weights that lie on
no path. Some die in every unstructured pruning, and at high sparsity many: a network that loses less than
half of them is not worth a warning, as what they held counts in ``effective_sparsity``.
"""
