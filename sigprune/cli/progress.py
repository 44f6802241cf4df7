"""Progress on standard error: a bar for each step on a terminal, a line for each step and epoch elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from sigprune.base.escape import printable
from sigprune.base.progress import Progress, ProgressCallback, SilentProgress

OFTEN = 30.0
"""Seconds after which a step that is still under way gets another line."""


class TerminalProgress:
    """A spinner, a title, a bar that pulses until a total is told, the time, and what the last epoch came to.

    Args:
        console: where to draw.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._current: tuple[Bars, TaskID] | None = None

    @contextmanager
    def step(self, title: str) -> Iterator[ProgressCallback]:
        """Draw the step until it ends; its last line stays."""
        columns = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Bars(*columns, console=self.console) as bars:
            task = bars.add_task(title, total=None, count="", note="")
            self._current = bars, task

            def on_progress(done: int, total: int) -> None:
                bars.update(task, completed=done, total=total, count=f"{done}/{total}")

            try:
                yield on_progress
            finally:
                self._current = None
            bars.update(task, completed=1, total=1)

    def say(self, text: str) -> None:
        """Show it beside the bar."""
        if self._current is not None:
            bars, task = self._current
            bars.update(task, note=text)


class LineProgress:
    """One line when a step begins, one for each epoch, and one now and then while a step takes long.

    Every line starts with the seconds since the first.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = self._last = clock()
        self._title = ""

    @contextmanager
    def step(self, title: str) -> Iterator[ProgressCallback]:
        """Write the title, and from time to time how far the step has come."""
        self._title = title
        self._write(title)

        def on_progress(done: int, total: int) -> None:
            if self._clock() - self._last >= OFTEN:
                self._write(f"{title}: {done}/{total}")

        yield on_progress

    def say(self, text: str) -> None:
        """Write it behind the title of the step."""
        self._write(f"{self._title}: {text}")

    def _write(self, text: str) -> None:
        self._last = self._clock()
        sys.stderr.write(f"[{self._last - self._start:7.1f} s] {printable(text)}\n")
        sys.stderr.flush()


def watch(*, quiet: bool) -> Progress:
    """Bars where a person looks on, lines in a pipe and in a log file, silence with ``quiet``."""
    if quiet:
        return SilentProgress()
    return TerminalProgress(Console(stderr=True)) if sys.stderr.isatty() else LineProgress()
