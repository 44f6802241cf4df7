"""The console: text that is shown and never obeyed, tables, JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from sigprune.base.family import Plain
from sigprune.base.printing import printable


class _Console(Console):
    """It escapes what is not printable: a name in somebody's file moves no cursor and hides no line."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Likewise, strings escaped but for the ends of lines."""
        shown = (printable(each, "\n") if isinstance(each, str) else each for each in objects)
        super().print(*shown, **options)


def console(*, stderr: bool = False) -> Console:
    """Standard output (or error): what is printed is never interpreted, and never wrapped in a pipe."""
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else 10_000
    return _Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True, width=width)


def print_json(data: object) -> None:
    """One JSON document; infinities and NaN as text, as in reports."""
    text = json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write(printable(text, "\n") + "\n")


def print_rows(console: Console, rows: Sequence[Mapping[str, Plain]], *, digits: int = 4) -> None:
    """A table with a column for each key; numbers to the right, with so many significant digits."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for key in keys:
        filled = [row[key] for row in rows if row.get(key) is not None]
        numeric = bool(filled) and all(map(_is_figure, filled))
        table.add_column(key, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    for row in rows:
        table.add_row(*(cell(row.get(key), digits) for key in keys))
    if console.is_terminal:
        console.print(table, soft_wrap=False)
        return
    with console.capture() as grabbed:
        console.print(table, soft_wrap=False)
    console.file.write("".join(f"{line.rstrip()}\n" for line in grabbed.get().splitlines()))


def is_number(value: Plain) -> bool:
    """Whether it is a number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_figure(value: Plain) -> bool:
    return is_number(value) or (isinstance(value, str) and value.endswith("%"))


def cell(value: Plain, digits: int = 4) -> str:
    """A value in a table: one line, so many significant digits."""
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if isinstance(value, int):
        return f"{value:,}"
    return printable(", ".join(str(item) for item in value) if isinstance(value, list) else str(value))


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return {key: _finite(item) for key, item in value.items()} if isinstance(value, dict) else value
