"""What takes long to make is made once for all processes that run the tests; each gets a copy of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A copy of the folder that ``make`` fills, in the first process that asks for it.

    Args:
        factory: of temporary folders.
        name: of the folder, one for each ``make``.
        make: fills the folder that it is given; what it raises is raised here too.
    """
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # that of all processes
    folder = root / "shared" / name
    with FileLock(root / f"{name}.lock"):
        if not folder.exists():
            unfinished = factory.mktemp(f"making-{name}")
            make(unfinished)
            folder.parent.mkdir(exist_ok=True)
            unfinished.rename(folder)  # whole or not at all
    copy = factory.mktemp("copies") / name
    shutil.copytree(folder, copy)
    return copy
