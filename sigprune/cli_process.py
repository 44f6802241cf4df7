"""The command line as a process: its environment, its signals, its exit codes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
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
from sigprune.base.printing import printable

if TYPE_CHECKING:
    from sigprune.effects.schema import Moment

_USAGE = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[2])
"""The root of usage errors, ClickException; typer has moved it between versions and does not export it."""


def guarded(act: Callable[[], object], words: Sequence[str]) -> int:
    """Carry out a command.

    Args:
        act: the command.
        words: the command line; ``--debug`` shows tracebacks, ``--quiet`` and ``-q`` silence libraries too.

    Returns:
        0: done. 1: a required finding failed, a mask does not fit, or the numbers left the finite range. 2:
        bad input, one line on standard error. 130: interrupted (143: by SIGTERM, which raises SystemExit).
    """
    _prepare(quiet=bool({"--quiet", "-q"} & set(words)))
    try:
        code = act()
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted: nothing was written", 130)
    except (FindingFailed, MaskViolated, BadScores, Diverged, BadInput, OSError, _USAGE) as error:
        if "--debug" in words:
            traceback.print_exc()
        replaces = bool({"run", "prune", "convert"} & set(words[:1]))
        return _fail(error, replaces=replaces)
    return code if isinstance(code, int) else 0


def _prepare(*, quiet: bool) -> None:
    """Settings that libraries read when imported; SIGTERM as Ctrl-C, so that temporary folders vanish."""
    # threads that spin while they wait slow each other down many times where cores are shared
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    if quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: object) -> None:
    """What a batch system does when the time is over."""
    del frame
    raise SystemExit(128 + number)


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
    from sigprune.cli_console import console
    from sigprune.cli_tables import print_signal

    print_signal(console(stderr=True), cast("Sequence[Moment]", error.signal))


def _say(message: str, code: int, *, several: bool = True) -> int:
    """One line, or where ``several`` things may be wrong one for each line of the message."""
    for line in message.splitlines() if several else [message]:
        sys.stderr.write(f"error: {printable(line)}\n")
    return code
