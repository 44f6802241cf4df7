"""Schedules: ``kept(total, target, *, ...) -> list[int]`` says how many entries each pruning round keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sigprune.base.family import Family


class Schedule(Protocol):
    """A member: ``kept(total, target, *, options)`` returns non-increasing counts that end at ``target``."""

    PAPER: str
    kept: Callable[..., list[int]]


schedules: Family[Schedule] = Family(__name__, "schedule", "kept")
