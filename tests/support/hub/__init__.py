"""A Hub on loopback, for tests that run the real clients against it.

    with running(tmp_path) as hub:
        hub.faults.add("PUT", "*", Fault(status=500), nth=2)
        done = client(hub.environment | {"HF_TOKEN": TOKEN}, code)
        assert len(hub.log.find("POST", "*/commit/*")) == 1

It takes repositories (models, data sets), uploads (regular files in the commit, LFS whole or in parts),
commits with their history, branches, tags and pull requests, and serves them with their revisions, ranges
and errors; LFS files come from another origin (``localhost`` in place of ``127.0.0.1``), as from the CDN of
the Hub. The folder ``models/user/repo`` under its root is a repository too, ``user/repo@v1`` its revision v1
(a slash in a revision is %2F). Repositories of the users ``gated`` and ``private`` open with TOKEN only,
those of ``broken`` never. Xet is not spoken: the real Hub's clients use it by default, here they are told not
to (``HF_HUB_DISABLE_XET``).

The environment variable ``HF_ENDPOINT`` points clients at it. It is read when they are imported, so they run
in a process of their own: a fork of one that has imported them (``forking``). One address and one cache,
emptied each time, serve all Hubs that a process runs one after the other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.support.hub import forking
from tests.support.hub.access import INVALID_TOKEN, READ_TOKEN, STRANGER_TOKEN, TOKEN
from tests.support.hub.faults import Entry, Fault
from tests.support.hub.routes import Routes
from tests.support.hub.server import Handler, Hub
from tests.support.hub.store import Store

__all__ = [
    "INVALID_TOKEN", "READ_TOKEN", "SILENT", "STRANGER_TOKEN", "TOKEN", "Entry", "Fault", "Hub", "client",
    "running", "serving",
]  # fmt: skip


@contextmanager
def running(root: Path) -> Iterator[Hub]:
    """A Hub over a folder, as long as the context lasts.

    Raises:
        RuntimeError: at the end, the Hub itself failed in between.
    """
    hub = Hub(Routes(Store(root)))
    server = _listening(type("BoundHandler", (Handler,), {"hub": hub}))
    home = root / "home" if server.server_port != _PORTS[0] else _home()
    shutil.rmtree(home, ignore_errors=True)
    Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    gone = {"HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"}
    hub.environment |= {key: value for key, value in os.environ.items() if key not in gone}
    hub.environment |= {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        **SILENT,
    }
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
    if hub.crashes:
        raise RuntimeError("\n".join(["the test Hub failed:", *hub.crashes]))


SILENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error",
}  # fmt: skip
"""What the command line sets in a pipe before it imports the libraries; the forked process has them too."""

_PORTS: list[int] = []
"""The port of this process, once it has one."""


def _listening(handler: type[Handler]) -> ThreadingHTTPServer:
    """A server at the address of this process, or at another while that is in use."""
    try:
        server = ThreadingHTTPServer(("127.0.0.1", _PORTS[0] if _PORTS else 0), handler)
    except OSError:
        return ThreadingHTTPServer(("127.0.0.1", 0), handler)
    _PORTS[:] = [server.server_port]
    return server


@cache
def _home() -> Path:
    """The folder of the caches."""
    folder = tempfile.TemporaryDirectory(prefix="hub-home-")
    _FOLDERS.append(folder)
    return Path(folder.name)


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
"""Removed when the process ends."""


@contextmanager
def serving(root: Path) -> Iterator[dict[str, str]]:
    """Serve ``root/models/user/repo`` and ``root/datasets/user/repo``; yields the environment of a client."""
    with running(root) as hub:
        yield hub.environment


def client(
    environment: dict[str, str], code: str, *arguments: str, folder: Path | None = None, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, which has nobody to ask.

    Args:
        environment: of the process.
        code: Python.
        arguments: of the process.
        folder: where it runs; here.
        fresh: the libraries must not be imported yet, for what counts is set before.
    """
    shared = _PORTS and environment["HF_ENDPOINT"].endswith(f":{_PORTS[0]}")
    if shared and not fresh:
        return forking.run(environment, code, arguments, folder, 3600)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, cwd=folder,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=3600,
    )  # fmt: skip
