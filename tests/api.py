"""The public API as text, one line for each name: ``python -m tests.api`` writes ``tests/api.txt`` again."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import sigprune

PAGE = Path(__file__).with_name("api.txt")


def listing() -> str:
    """Every public name with its signature, and the public methods and properties of classes."""
    lines: list[str] = []
    for name in sigprune.__all__:
        thing = getattr(sigprune, name)
        lines.append(f"{name}{_signature(thing)}")
        if inspect.isclass(thing):
            lines += [
                f"{name}.{key}{_signature(value)}"
                for key, value in sorted(vars(thing).items())
                if not key.startswith(("_", "model_"))
                and (callable(value) or isinstance(value, property | classmethod))
            ]
    return "\n".join(lines) + "\n"


def _signature(thing: object) -> str:
    if isinstance(thing, classmethod):
        thing = thing.__func__
    if hasattr(thing, "model_fields"):  # its signature depends on the version of pydantic
        return f"({', '.join(thing.model_fields)})"
    return re.sub(r"<function (\w+) at \w+>", r"\1", str(inspect.signature(thing))) if callable(thing) else ""


if __name__ == "__main__":
    PAGE.write_text(listing(), encoding="utf-8")
