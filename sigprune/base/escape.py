"""Text from files and names on a terminal: shown, never obeyed."""

from __future__ import annotations

import json


def printable(text: str, but: str = "") -> str:
    r"""The text with escapes, as JSON has them, for what is no printable sign: controls, lone surrogates...

    Args:
        text: the text.
        but: signs that stay as they are, e.g. the end of a line.

    Example:
        >>> print(printable("blocks.0\x1b[2J"))
        blocks.0\u001b[2J
    """
    return "".join(sign if sign.isprintable() or sign in but else json.dumps(sign)[1:-1] for sign in text)
