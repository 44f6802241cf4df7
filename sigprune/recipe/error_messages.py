"""One line for what is wrong with a recipe: for each problem the path, what was expected, what was got."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sigprune.base.errors import suggestion

_LONGEST = 60
MAX_SHOWN = 8
"""Problems that one message holds."""


def shown(value: object) -> str:
    """A value and its type, cut to a readable length."""
    if value is None:
        return "null"
    text = repr(value)
    return f"{text if len(text) <= _LONGEST else text[:_LONGEST] + '...'} ({type(value).__name__})"


def joined(problems: Sequence[str], more: int = 0) -> str:
    """Several problems in one line.

    Args:
        problems: of many the first eight are shown.
        more: how many there are besides these.
    """
    shown, more = problems[:MAX_SHOWN], more + len(problems[MAX_SHOWN:])
    return "; also ".join(shown) + (f"; and {more:,} more error{'s' * (more > 1)}" if more else "")


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """Every problem in one line, unknown keys before all others.

    Args:
        error: what pydantic found.
        root: the model that was validated; its fields are the known keys.
    """
    problems = sorted(error.errors(), key=lambda p: p["type"] != "extra_forbidden")
    lines = dict.fromkeys(_line(problem, root) for problem in problems[:MAX_SHOWN])
    return joined(list(lines), len(problems[MAX_SHOWN:]))


def _line(problem: ErrorDetails, root: type[BaseModel]) -> str:
    path = ".".join(str(key) for key in problem["loc"])
    got = shown(problem["input"])
    match problem["type"]:
        case "extra_forbidden":
            *above, key = problem["loc"]
            return f"{path}: unknown key; {suggestion(str(key), _keys(root, above))}"
        case "missing":
            return f"{path}: expected a value, got none"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{path}: expected a mapping, got {got}"
        case "tuple_type":
            return f"{path}: expected a list, got {got}"
        case "value_error":
            text = str(problem["ctx"]["error"])
            return text if not path or text.startswith(path) else f"{path}: {text}"
    return f"{path}: {_wanted(problem['msg'])}, got {got}"


def _wanted(message: str) -> str:
    """Pydantic's "Input should be a valid number" as "expected a number"."""
    wanted = message.removeprefix("Input should be ")
    wanted = wanted.replace("a valid integer", "an integer").replace("a valid ", "a ")
    if wanted == message:
        return message[0].lower() + message[1:]
    return f"expected a value {wanted}" if wanted.startswith(("greater", "less")) else f"expected {wanted}"


def _keys(root: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    """The keys of the section at a path; a mapping of sections is stepped through."""
    here: object = root
    for key in path:
        if get_origin(here) is dict:
            here = get_args(here)[1]
        elif isinstance(here, type) and issubclass(here, BaseModel):
            here = here.model_fields[str(key)].annotation
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []
