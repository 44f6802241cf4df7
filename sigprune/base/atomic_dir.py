"""Output folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from sigprune.base import staging
from sigprune.base.errors import BadInput, FolderExists, NoSpace
from sigprune.base.rename_exchange import exchange, exchangeable, interchangeable
from sigprune.base.signals import deferred

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def new_folder(folder: str | Path, *, replace: Collection[str] = ()) -> Iterator[Path]:
    """A temporary folder whose files become those of ``folder`` when the block ends; it vanishes on an error.

    A folder appears, or takes the place of one that is there, by one renaming, so that even a process that
    is killed leaves the old state or the new one (perhaps with a hidden ``.NAME.PID-0.part`` beside it, which
    vanishes when the folder is written again). An interruption gets a note of what was written. The
    temporary folder lies beside the target, or beside the first of its parents that is missing, so that the
    move stays on one disk and a failure leaves no empty parents. A folder that must stay the same one (with
    mounts, the current folder, another owner, group or access list; outside Linux any) is filled file by
    file.

    Args:
        folder: the target; it may exist if it is empty.
        replace: replace a target that holds a file of one of these names, which shows that it is one of ours;
            its old content is deleted at the very end.

    Raises:
        FolderExists: the target is not empty, and may not be replaced.
        NoSpace: the disk is full.
        BadInput: the target is a file, or nothing can be written there.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a" / "b"
        >>> with new_folder(target) as staging:
        ...     _ = (staging / "x.txt").write_text("x")
        >>> [p.name for p in target.iterdir()]
        ['x.txt']
    """
    try:
        target = Path(folder).expanduser().resolve()
    except RuntimeError as error:  # the home of a user that does not exist
        raise BadInput(f"{folder}: no folder can be written there: {error}") from error
    part, lock = None, None
    written = False
    try:
        with deferred():
            part = _staging(target, replace)
            lock = staging.lock(part)
        yield part
        with deferred():
            _refuse(target, replace, besides=part)
            _move(part, target, replace)
            written = True
        shutil.rmtree(part, ignore_errors=True)  # what was the target
    except BaseException as error:  # Ctrl-C too leaves nothing behind
        with deferred():
            needs = None if part is None else _needed(error, part)
            if part is not None:
                shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, KeyboardInterrupt):
            error.add_note(f"{folder} is complete" if written else f"nothing was written to {folder}")
        if needs is None:
            raise
        raise NoSpace(target, needs, shutil.disk_usage(_existing(target)).free) from error
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def taking(folder: Path, needs: int) -> Iterator[None]:
    """Where the disk is full, the error says how many bytes were to be written into the folder.

    Raises:
        NoSpace: it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise NoSpace(folder, needs, shutil.disk_usage(folder).free) from error


def bytes_in(folder: Path, *, but: Path | None = None) -> int:
    """Bytes of all files in a folder, but for one."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path != but)


def _staging(target: Path, replace: Collection[str]) -> Path:
    try:
        _refuse(target, replace)
        if target.exists() and exchangeable(target):
            path = staging.new(target.parent, target.name)
            if interchangeable(path, target):
                shutil.copymode(target, path)
                return path
            path.rmdir()
        if target.exists():
            return staging.new(target, "")
        missing = _missing(target)
        return staging.new(missing.parent, missing.name)
    except OSError as error:
        raise BadInput(f"{target}: no folder can be written there: {error.strerror or error}") from error


def _refuse(target: Path, replace: Collection[str], besides: Path | None = None) -> None:
    if target.exists() and not target.is_dir():
        raise BadInput(f"{target}: expected a folder, found a file; choose another folder")
    found = {path.name for path in target.iterdir() if path != besides} if target.is_dir() else set()
    if found and not replace:
        raise FolderExists(f"{target}: the folder exists and is not empty; choose another")
    if found and not found & set(replace):
        raise BadInput(
            f"{target}: the folder holds other things ({min(found)}, ...) and no {' or '.join(replace)}: "
            "nothing shows that sigprune wrote it, so it is not replaced; choose another folder"
        )


def _missing(target: Path) -> Path:
    """The target, or the first of its parents that does not exist."""
    while not target.parent.exists():
        target = target.parent
    return target


def _needed(error: BaseException, part: Path) -> int | None:
    """Bytes that were to be written at least, if the error is a full disk."""
    if isinstance(error, NoSpace):
        return error.needs
    return bytes_in(part) if isinstance(error, OSError) and error.errno in _FULL else None


def _existing(target: Path) -> Path:
    """The target, or the nearest folder above it that exists."""
    return target if target.exists() else _missing(target).parent


def _move(part: Path, target: Path, replace: Collection[str]) -> None:
    """Put the files in place; if that fails midway, the old ones come back."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part.rename(target)
    elif part.parent == target or not exchange(part, target):
        _fill(target, part)
    else:
        try:
            _refuse(part, replace)  # what was the target: another process may have written there
        except BadInput:
            exchange(part, target)
            _refuse(target, replace)
            raise


def _fill(target: Path, part: Path) -> None:
    """Files of the one folder take the place of those of the other, which may hold it, one by one."""
    old = staging.hidden(target, "old")
    away = [(path, old / path.name) for path in target.iterdir() if path != part]
    old.mkdir()
    done: list[tuple[Path, Path]] = []
    try:
        for source, goal in [*away, *((path, target / path.name) for path in list(part.iterdir()))]:
            source.rename(goal)
            done.append((source, goal))
    except BaseException:
        for source, goal in reversed(done):
            goal.rename(source)
        old.rmdir()
        raise
    part.rmdir()
    shutil.rmtree(old, ignore_errors=True)
