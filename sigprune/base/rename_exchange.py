"""Two folders swap their names in one step, where the system can do that and nothing speaks against it."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

_HERE, _EXCHANGE = -100, 2
"""``AT_FDCWD`` and ``RENAME_EXCHANGE`` of Linux."""


def exchangeable(folder: Path) -> bool:
    """Whether a folder may become another one: Linux, and nothing binds it to its place.

    Bound are: mount points and what holds one, the current folder and what holds it, and what may not be
    written to, itself or the folder that holds it.

    Args:
        folder: resolved.
    """
    if sys.platform != "linux" or not all(
        os.access(path, os.W_OK | os.X_OK) for path in (folder, folder.parent)
    ):
        return False
    try:
        bound = [*_mounts(), Path.cwd()]
    except FileNotFoundError:  # there is no /proc, or the current folder was deleted
        return False
    return not any(path.is_relative_to(folder) for path in bound)


def interchangeable(first: Path, second: Path) -> bool:
    """Whether two folders have the same owner, group and extended attributes (access lists are some)."""
    one, other = ((path.stat(), _attributes(path)) for path in (first, second))
    return (one[0].st_uid, one[0].st_gid, one[1]) == (other[0].st_uid, other[0].st_gid, other[1])


def exchange(first: Path, second: Path) -> bool:
    """Each gets what the other was; False, with nothing done, where system or disk cannot do that.

    Source: renameat2(2) of Linux; elsewhere it is never done.
    """
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    return bool(rename(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0)


def _mounts() -> list[Path]:
    """All mount points, bind mounts too. Source: proc_pid_mountinfo(5), field 5, octal escapes."""
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    plain = (
        re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), line.split(b" ")[4]) for line in lines
    )
    return [Path(os.fsdecode(path)) for path in plain]


def _attributes(path: Path) -> dict[str, bytes]:
    try:
        return {name: os.getxattr(path, name) for name in os.listxattr(path)}
    except OSError:  # the disk has none
        return {}
