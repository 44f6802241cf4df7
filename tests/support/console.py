"""What commands print."""

from __future__ import annotations

import re

_LINE = re.compile(r"^\[ *\d+\.\d s\] (.*)\n", re.MULTILINE)


def without_progress(text: str) -> str:
    """Standard error but for the lines that say how far a command is."""
    return _LINE.sub("", text)


def progress(text: str) -> list[str]:
    """Those lines alone, without their times."""
    return _LINE.findall(text)
