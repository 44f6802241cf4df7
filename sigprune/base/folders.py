"""Output folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from sigprune.base.errors import BadInput, FolderExists, NoSpace
from sigprune.base.exchanging import exchange, exchangeable, interchangeable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def new_folder(folder: str | Path, *, replace: Collection[str] = ()) -> Iterator[Path]:
    """A temporary folder whose files become those of ``folder`` when the block ends; it vanishes on an error.

    A folder appears, or takes the place of one that is there, by one renaming, so that even a process that
    is killed leaves the old state or the new one (perhaps with a hidden ``.NAME.PID-0.part`` beside it). The
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
    staging = _staging(target, replace)
    try:
        yield staging
        _refuse(target, replace, besides=staging)
        _move(staging, target, replace)
    except BaseException as error:  # Ctrl-C too leaves nothing behind
        needs = _needed(error, staging)
        shutil.rmtree(staging, ignore_errors=True)
        if needs is None:
            raise
        raise NoSpace(target, needs, shutil.disk_usage(_existing(target)).free) from error


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
            path = _hidden_beside(target, "part")
            path.mkdir()
            if interchangeable(path, target):
                shutil.copymode(target, path)
                return path
            path.rmdir()
        path = _hidden(target, "part") if target.exists() else _hidden_beside(_missing(target), "part")
        path.mkdir()
    except OSError as error:
        raise BadInput(f"{target}: no folder can be written there: {error.strerror or error}") from error
    return path


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


def _needed(error: BaseException, staging: Path) -> int | None:
    """Bytes that were to be written at least, if the error is a full disk."""
    if isinstance(error, NoSpace):
        return error.needs
    return bytes_in(staging) if isinstance(error, OSError) and error.errno in _FULL else None


def _existing(target: Path) -> Path:
    """The target, or the nearest folder above it that exists."""
    return target if target.exists() else _missing(target).parent


def _hidden_beside(path: Path, suffix: str) -> Path:
    return _hidden(path.parent, suffix, path.name)


def _hidden(folder: Path, suffix: str, stem: str = "") -> Path:
    """A hidden name in the folder that nothing has."""
    names = (folder / f".{stem[:100]}.{os.getpid()}-{i}.{suffix}" for i in count())
    return next(name for name in names if not name.exists())


def _move(staging: Path, target: Path, replace: Collection[str]) -> None:
    """Put the files in place; if that fails midway, the old ones come back."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        staging.rename(target)
    elif staging.parent == target or not exchange(staging, target):
        _fill(target, staging)
    else:
        try:
            _refuse(staging, replace)  # what was the target: another process may have written there
        except BadInput:
            exchange(staging, target)
            _refuse(target, replace)
            raise
        shutil.rmtree(staging, ignore_errors=True)


def _fill(target: Path, staging: Path) -> None:
    """Files of the one folder take the place of those of the other, which may hold it, one by one."""
    old = _hidden(target, "old")
    away = [(path, old / path.name) for path in target.iterdir() if path != staging]
    old.mkdir()
    done: list[tuple[Path, Path]] = []
    try:
        for source, goal in [*away, *((path, target / path.name) for path in list(staging.iterdir()))]:
            source.rename(goal)
            done.append((source, goal))
    except BaseException:
        for source, goal in reversed(done):
            goal.rename(source)
        old.rmdir()
        raise
    staging.rmdir()
    shutil.rmtree(old, ignore_errors=True)
