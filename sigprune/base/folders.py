"""Output folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from sigprune.base.errors import FolderExists


@contextmanager
def new_folder(folder: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes ``folder`` when the block ends, and vanishes when it raises.

    The temporary folder lies beside the target, or beside the first of its parents that does not exist yet,
    so that the move stays on one disk and a failure leaves no empty parents behind.

    Args:
        folder: the target; it may exist if it is empty.
        replace: take the place of a target that is not empty. The old one is deleted at the very end.

    Raises:
        FolderExists: the target is a file, or not empty while ``replace`` is false.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a" / "b"
        >>> with new_folder(target) as staging:
        ...     _ = (staging / "x.txt").write_text("x")
        >>> [p.name for p in target.iterdir()]
        ['x.txt']
    """
    target = Path(folder).absolute()
    _refuse(target, replace)
    staging = _beside(_missing(target), "part")
    staging.mkdir()
    try:
        yield staging
        _refuse(target, replace)
        target.parent.mkdir(parents=True, exist_ok=True)
        _move(staging, target)
    except BaseException:  # Ctrl-C too leaves nothing behind
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _refuse(target: Path, replace: bool) -> None:
    if target.exists() and not target.is_dir():
        raise FolderExists(f"{target}: expected a folder, found a file; choose another folder")
    if not replace and target.is_dir() and any(target.iterdir()):
        raise FolderExists(
            f"{target}: the folder exists and is not empty; choose another, or ask to replace it"
        )


def _missing(target: Path) -> Path:
    """The target, or the first of its parents that does not exist."""
    while not target.parent.exists():
        target = target.parent
    return target


def _beside(path: Path, suffix: str) -> Path:
    """A hidden name beside the path that nothing has."""
    names = (path.with_name(f".{path.name}.{os.getpid()}-{i}.{suffix}") for i in count())
    return next(name for name in names if not name.exists())


def _move(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    old = _beside(target, "old")
    target.rename(old)
    try:
        staging.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
