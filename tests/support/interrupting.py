"""A command, interrupted at many of its moments (``python -m tests.support.interrupting N FOLDER LINE``).

At every Nth call of a function of Python, of ours or of any library, imports included, the process is forked
and the fork gets SIGINT right there; the process itself goes on. It prints a line of JSON for each fork: the
code with which it ended, what it wrote to standard error, what it left behind, and where it was struck.
FOLDER is the empty folder in which the command runs.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType


class Interrupting:
    """A trace function."""

    def __init__(self, every: int, folder: Path) -> None:
        self.every, self.folder = every, folder
        self.calls = 0
        self.struck: dict[str, object] | None = None
        self.errors = 0

    def __call__(self, frame: FrameType, _: str, __: object) -> None:
        """Count the call, and strike in a fork if it is its turn."""
        self.calls += 1
        if self.calls % self.every or frame.f_code.co_filename.startswith("<"):
            return
        sys.settrace(None)
        before = content(self.folder)
        sys.stdout.flush()
        child = os.fork()
        if not child:
            self.struck = {"where": f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"}
            self.errors = os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR)
            os.dup2(self.errors, 2)
            os.kill(os.getpid(), signal.SIGINT)
            return
        os.waitpid(child, 0)
        restore(self.folder, before)  # the fork has cleaned up what is of this process
        sys.settrace(self)

    def say(self, code: object) -> None:
        """In the fork: how it ended."""
        assert self.struck is not None
        os.lseek(self.errors, 0, os.SEEK_SET)
        said = os.read(self.errors, 2**20).decode()
        left = sorted(path.name for path in self.folder.iterdir())
        whole = (self.folder / "out" / "README.md").is_file()  # the last thing that is written
        print(
            json.dumps({"code": code, "said": said, "left": left, "whole": whole, **self.struck}), flush=True
        )
        os._exit(0)


def content(folder: Path) -> dict[Path, bytes | None]:
    """Files and folders (None) below a folder, parents first."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def restore(folder: Path, before: dict[Path, bytes | None]) -> None:
    """Make what was there again."""
    for path, file in before.items():
        if file is None:
            path.mkdir(exist_ok=True)
        elif not path.exists():
            path.write_bytes(file)


def main() -> None:
    """Run the command."""
    every, folder, *line = sys.argv[1:]
    os.chdir(folder)
    sys.argv = ["sigprune", *line]
    interrupting = Interrupting(int(every), Path(folder))
    sys.settrace(interrupting)
    code: object = 0
    try:
        runpy.run_module("sigprune", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        code = repr(error)
    sys.settrace(None)
    if interrupting.struck is not None:
        interrupting.say(code)
    print(json.dumps({"end": code, "calls": interrupting.calls}))


if __name__ == "__main__":
    main()
