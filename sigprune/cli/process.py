"""The command line as a process: its environment, its signals, its exit codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import typer

from sigprune.base.errors import (
    BadInput,
    BadScores,
    Diverged,
    FindingFailed,
    FolderExists,
    MaskViolated,
    RecipeError,
)
from sigprune.base.escape import printable
from sigprune.cli.interruptions import Interruptions

if TYPE_CHECKING:
    pass

_USAGE = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[2])
"""The root of usage errors, ClickException; typer has moved it between versions and does not export it."""


def guarded(act: Callable[[], object], words: Sequence[str]) -> int:
    """Carry out a command.

    Args:
        act: the command.
        words: the command line; ``--debug`` shows tracebacks, ``--quiet`` and ``-q`` silence libraries too.

    Returns:
        0: done. 1: a required finding failed, a mask does not fit, or the numbers left the finite range. 2:
        bad input, one line on standard error. 130: interrupted (by Ctrl-C; 143: by SIGTERM, 129: by SIGHUP,
        when a terminal is closed).
    """
    interruptions, code = Interruptions(), 130
    try:
        with interruptions:
            _prepare(quiet=bool({"--quiet", "-q"} & set(words)))
            code = _carried_out(act, words, interruptions)
            interruptions.over = True
    except (KeyboardInterrupt, typer.Abort):  # some versions of typer end with 130 instead
        interruptions.number = interruptions.number or signal.SIGINT
    except Exception:  # what Python or a library made of the interruption, in __set_name__ for instance
        if not interruptions.number:
            raise
    if not interruptions.number:
        return code
    with suppress(OSError):  # the terminal may be gone
        _say(_interrupted(interruptions.raised) if code else "interrupted when everything was done", 1)
    return 128 + interruptions.number


def _carried_out(act: Callable[[], object], words: Sequence[str], interruptions: Interruptions) -> int:
    try:
        code = act()
    except (FindingFailed, MaskViolated, BadScores, Diverged, BadInput, OSError, _USAGE) as error:
        if interruptions.number:  # what is wrong is the interruption, not the input
            raise
        if "--debug" in words:
            traceback.print_exc()
        replaces = bool({"run", "prune", "convert"} & set(words[:1]))
        return _fail(error, replaces=replaces)
    return code if isinstance(code, int) else 0


def _interrupted(error: BaseException | None) -> str:
    """What was going on, and what is left of it, as the notes say."""
    notes = list(getattr(error, "__notes__", []))
    if any(note.startswith("nothing was written") for note in notes):
        notes.append("the same command starts again from the beginning")
    return "interrupted" + ": " * bool(notes) + "; ".join(notes)


def _prepare(*, quiet: bool) -> None:
    """Settings that libraries read when imported."""
    # threads that spin while they wait slow each other down many times where cores are shared
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    if quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _fail(error: Exception, *, replaces: bool) -> int:
    if isinstance(error, _USAGE):
        return _say(error.format_message().replace("Value error, ", ""), 2)  # pydantic's, through typer
    if isinstance(error, FolderExists) and replaces:
        return _say(f"{error} (--force replaces it)", 2)
    if isinstance(error, FindingFailed):
        _show(error)
    several = isinstance(error, RecipeError | FindingFailed)
    return _say(str(error), 2 if isinstance(error, BadInput | OSError) else 1, several=several)


def _show(error: FindingFailed) -> None:
    """What was measured before the finding failed, on standard error."""
    from sigprune.cli.console import console
    from sigprune.cli.tables import print_signal
    from sigprune.report.run_record import Measurement
    from sigprune.report.serialize import of_measurement

    moments = [of_measurement(one) for one in error.signal if isinstance(one, Measurement)]
    print_signal(console(stderr=True), moments)


def _say(message: str, code: int, *, several: bool = True) -> int:
    """One line, or where ``several`` things may be wrong one for each line of the message."""
    for line in message.splitlines() if several else [message]:
        sys.stderr.write(f"error: {printable(line)}\n")
    return code
