"""Progress on a terminal: one bar per step, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from sigprune.base.progress import Progress, SilentProgress, Tell


class TerminalProgress:
    """A spinner, a title, a bar that pulses until a total is told, and the time.

    Args:
        console: where to draw.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def step(self, title: str) -> Iterator[Tell]:
        """Draw the step until it ends; its last line stays."""
        columns = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self.console) as bars:
            task = bars.add_task(title, total=None, count="")

            def tell(done: int, total: int) -> None:
                bars.update(task, completed=done, total=total, count=f"{done}/{total}")

            yield tell
            bars.update(task, completed=1, total=1)


def watch(*, quiet: bool) -> Progress:
    """Bars where a person looks on; silence with ``quiet``, in a pipe and in a log file."""
    if quiet or not sys.stderr.isatty():
        return SilentProgress()
    return TerminalProgress(Console(stderr=True))
