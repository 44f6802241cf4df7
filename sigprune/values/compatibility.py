"""Compositions: which members of different families make no sense together, and why. Imports no torch."""

from __future__ import annotations

from typing import Literal, TypeAlias

from sigprune.base.registry import MemberSpec

Counts: TypeAlias = Literal["exact", "whole units", "fixed"]
"""What a pattern does with the counts of an allocation.

``exact``: it keeps just these. ``whole units``: it rounds them to whole units, so that fewer entries are kept
than asked for, by less than the largest unit. ``fixed``: it knows how many each weight keeps, and sparsity
must agree.
"""


def incompatibility(counts: str, pattern: str, allocation: MemberSpec, schedule: str) -> str | None:
    """Why the parts do not go together; None if they do.

    The one table of refusals that need no network; all other compositions are carried out.

    Args:
        counts: the pattern's ``COUNTS``.
        pattern: its name.
        allocation: with its options.
        schedule: its name.

    Example:
        >>> incompatibility("exact", "unstructured", MemberSpec("pooled"), "exponential")
        >>> print(incompatibility("fixed", "n_m", MemberSpec("erk"), "oneshot"))
        the pattern 'n_m' fixes every density, and 'erk' would choose others: set allocation: uniform
    """
    if counts != "fixed":
        return None
    fixes = f"the pattern {pattern!r} fixes every density"
    if allocation.name != "uniform":
        return f"{fixes}, and {allocation.name!r} would choose others: set allocation: uniform"
    if allocation.options.get("floor"):
        return f"{fixes}: leave out the floor of {allocation.name!r}"
    if schedule != "oneshot":
        return f"{fixes}, so that it has no use for the rounds of {schedule!r}: set schedule: oneshot"
    return None
