"""The console: text that is shown and never obeyed, tables, JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sigprune.base.escape import printable
from sigprune.base.registry import JsonValue

_GAP = 3
"""Columns between those of a table."""


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


def print_rows(
    console: Console, rows: Sequence[Mapping[str, JsonValue]], *, digits: int = 4, prose: bool = False
) -> None:
    """A table with a column for each key; no word is broken where the console has room for that.

    Args:
        console: where to print.
        rows: key -> value.
        digits: significant digits of numbers, which stand to the right.
        prose: where there is no such room, a paragraph for each row instead of a table.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))
    columns = {key: [cell(row.get(key), digits) for row in rows] for key in keys}
    widths = _widths(columns, console.width - _GAP * (len(keys) - 1))
    if prose and widths is None:
        _print_paragraphs(console, columns)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for key in keys:
        filled = [row[key] for row in rows if row.get(key) is not None]
        numeric = bool(filled) and all(map(_is_figure, filled))
        table.add_column(
            key,
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=numeric,
            width=None if widths is None else widths[key],
        )
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    if console.is_terminal:
        console.print(table, soft_wrap=False)
        return
    with console.capture() as grabbed:
        console.print(table, soft_wrap=False)
    console.file.write("".join(f"{line.rstrip()}\n" for line in grabbed.get().splitlines()))


def _widths(columns: Mapping[str, Sequence[str]], room: int) -> dict[str, int] | None:
    """A width for each column that breaks no word, so that the tallest row is low; None if there is none."""
    texts = {key: [key, *cells] for key, cells in columns.items()}
    widths = {
        key: max(cell_len(word) for text in own for word in (text.split() or [""]))
        for key, own in texts.items()
    }
    needed = {key: max(map(cell_len, own)) for key, own in texts.items()}
    if sum(widths.values()) > room:
        return None
    for _ in range(min(room, sum(needed.values())) - sum(widths.values())):
        tallest = max(widths, key=lambda key: needed[key] / max(widths[key], 1))
        widths[tallest] += 1
    return widths


def _print_paragraphs(console: Console, columns: Mapping[str, Sequence[str]]) -> None:
    """The first value of each row, and below it the others by their keys."""
    (_, names), *others = columns.items()
    for index, name in enumerate(names):
        console.print(Text(name, style="bold"), soft_wrap=False)
        for key, cells in others:
            if cells[index]:
                console.print(Padding(Text(f"{key}: {cells[index]}"), (0, 0, 0, 2)), soft_wrap=False)


def is_number(value: JsonValue) -> bool:
    """Whether it is a number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_figure(value: JsonValue) -> bool:
    return is_number(value) or (isinstance(value, str) and value.endswith("%"))


def cell(value: JsonValue, digits: int = 4) -> str:
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
