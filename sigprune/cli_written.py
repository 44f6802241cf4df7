"""What is printed of a folder that was written: its files, what stayed behind, what the mask keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from sigprune.cli_console import print_rows
from sigprune.cli_tables import kept_words

if TYPE_CHECKING:
    from sigprune.verbs.writing import Written


def print_written(console: Console, written: Written) -> None:
    """The files, what stayed behind, and last what the mask keeps."""
    print_rows(console, [{"file": name, "bytes": size} for name, size in written.files.items()])
    print_left(console, written.left)
    for note in written.notes:
        console.print(note)
    if written.layers:
        kept, total, tensors = written.kept, written.total, len(written.layers)
        console.print(f"\n{kept_words(kept, total, tensors, written.sparsity)}")


def print_left(console: Console, left: Sequence[str], most: int = 8) -> None:
    """One line that names what of the source was not copied, if anything was not."""
    if left:
        others = f" and {len(left) - most} more" if len(left) > most else ""
        console.print(f"not copied: {', '.join(left[:most])}{others}")


def nearly_empty(written: Written) -> list[str]:
    """A warning for each tensor that pruning has all but emptied, one that says how to leave it dense."""
    return [
        f"warning: {name} keeps {kept:,} of {total:,} entries; --set 'prune.exclude=[{name}]' leaves it dense"
        for name, (kept, total) in written.layers.items()
        if name in written.nearly_empty()
    ]
