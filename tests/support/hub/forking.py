"""A process that has imported the libraries already and runs each piece of client code in a fork of itself.

Clients of the Hub read its address when they are imported, so they need a process of their own, and importing
torch, timm and transformers takes several seconds of computation each time. Processes with the same
environment (but for the token, which is read at each request) share one that is forked: what they import,
set and leave behind dies with the fork.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path

from huggingface_hub import constants

LATE = frozenset({"GOMP_SPINCOUNT", "HF_HUB_OFFLINE", "HF_TOKEN", "PYTEST_CURRENT_TEST", "PYTEST_VERSION"})
"""Environment variables that are read when they are needed (HF_HUB_OFFLINE: set again in the fork)."""


def run(
    environment: dict[str, str], code: str, arguments: tuple[str, ...], folder: Path | None, timeout: int
) -> subprocess.CompletedProcess[str]:
    """Python code in a fork of a process with this environment.

    Raises:
        TimeoutExpired: it took more seconds than it may; it is killed.
    """
    fixed = tuple(sorted((key, value) for key, value in environment.items() if key not in LATE))
    server = _server(fixed)
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place, "out"), Path(place, "err")
        asked = {
            "code": code, "arguments": arguments, "environment": environment, "timeout": timeout,
            "folder": str(folder or Path.cwd()), "out": str(out), "err": str(err),
        }  # fmt: skip
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, "the process that is forked has ended"
        returned = json.loads(answer)
        if returned == -signal.SIGALRM:
            raise subprocess.TimeoutExpired(code, timeout, out.read_text(), err.read_text())
        return subprocess.CompletedProcess([code, *arguments], returned, out.read_text(), err.read_text())


@cache
def _server(environment: tuple[tuple[str, str], ...]) -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.hub.forking"],
        env=dict(environment), cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    server.communicate()  # the end of its input is the end of its work


def _serve() -> None:
    """Read one line per piece of code, and answer with how it ended."""
    _import()
    gc.freeze()  # collecting garbage in a fork would copy every page that it looks at
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if not child:
            os._exit(_obey(asked))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _import() -> None:
    """What most clients import. Nothing here may start a thread: only the one that forks would survive."""
    from transformers import AutoModelForMaskedLM, BertForMaskedLM

    from sigprune import convert, load, pull, push, run
    from sigprune.cli import app
    from sigprune.families.adapters import timm

    del AutoModelForMaskedLM, BertForMaskedLM, app, convert, load, pull, push, run, timm


def _obey(asked: dict) -> int:
    """In the fork: the code as ``python -c`` runs it."""
    signal.alarm(asked["timeout"])
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, asked["out"], os.O_WRONLY | os.O_CREAT),
        (2, asked["err"], os.O_WRONLY | os.O_CREAT),
    ):
        os.dup2(os.open(path, flags), descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(asked["environment"])
    # read when huggingface_hub is imported, but kept in this one place, which the other libraries ask
    constants.HF_HUB_OFFLINE = "HF_HUB_OFFLINE" in os.environ
    os.chdir(asked["folder"])
    sys.argv = ["-c", *asked["arguments"]]
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    code = 0
    try:
        exec(compile(asked["code"], "<string>", "exec"), module.__dict__)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    _serve()
