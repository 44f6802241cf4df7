"""Hidden folders in which something is made, and what processes that were killed have left of them."""

from __future__ import annotations

import os
import re
import shutil
import sys
from itertools import count
from pathlib import Path

PART = "part"
"""What is being made ends in this."""


def hidden(folder: Path, suffix: str, stem: str = "") -> Path:
    """A hidden name in the folder that nothing has: ``.STEM.PID-0.SUFFIX``."""
    names = (folder / f".{stem[:100]}.{os.getpid()}-{i}.{suffix}" for i in count())
    return next(name for name in names if not name.exists())


def new(folder: Path, stem: str) -> Path:
    """A new hidden folder; abandoned ones for the same stem are removed.

    Raises:
        OSError: it cannot be made.
    """
    pattern = re.compile(rf"\.{re.escape(stem[:100])}\.(\d+)-\d+\.{PART}")
    for path in folder.iterdir():
        found = pattern.fullmatch(path.name)
        if found and path.is_dir() and not path.is_symlink():
            _remove_abandoned(path, int(found[1]))
    path = hidden(folder, PART, stem)
    path.mkdir()
    return path


def lock(folder: Path) -> int | None:
    """Show other processes that somebody works in the folder, until the descriptor is closed.

    Source: flock(2), which knows of other containers on the same machine, as numbers of processes do not.

    Returns:
        A file descriptor; None where somebody else works there, or the system or the disk has no such locks.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_abandoned(path: Path, process: int) -> None:
    """Remove the folder if its process has ended and nobody works in it; in doubt it stays."""
    if _running(process):
        return
    descriptor = lock(path)
    if descriptor is not None:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _running(process: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is somebody else's
        return True
    return True
