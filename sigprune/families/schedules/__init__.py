"""Schedules: ``kept(total, target, *, ...) -> list[int]`` says how many entries each pruning round keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from sigprune.base.lazy import lazy_names
from sigprune.base.registry import Family

if TYPE_CHECKING:
    from sigprune.families.schedules._shared import expect_rounds as expect_rounds


class Schedule(Protocol):
    """A member: ``kept(total, target, *, options)`` returns non-increasing counts that end at ``target``."""

    PAPER: str
    kept: Callable[..., list[int]]


schedules: Family[Schedule] = Family(__name__, "schedule", "kept")

__getattr__ = lazy_names(__name__, {"expect_rounds": "_shared"})
