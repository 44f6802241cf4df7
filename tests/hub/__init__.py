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

The environment variable ``HF_ENDPOINT`` points clients at it (it is read when they are imported, so they run
in a process of their own).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.hub.access import INVALID_TOKEN, READ_TOKEN, STRANGER_TOKEN, TOKEN
from tests.hub.faults import Entry, Fault
from tests.hub.routes import Routes
from tests.hub.server import Handler, Hub
from tests.hub.store import Store

__all__ = [
    "INVALID_TOKEN", "READ_TOKEN", "STRANGER_TOKEN", "TOKEN", "Entry", "Fault", "Hub", "client", "running",
    "serving",
]  # fmt: skip


@contextmanager
def running(root: Path) -> Iterator[Hub]:
    """A Hub over a folder, as long as the context lasts.

    Raises:
        RuntimeError: at the end, the Hub itself failed in between.
    """
    hub = Hub(Routes(Store(root)))
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    gone = {"HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"}
    hub.environment |= {key: value for key, value in os.environ.items() if key not in gone}
    hub.environment |= {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(root / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
    if hub.crashes:
        raise RuntimeError("\n".join(["the test Hub failed:", *hub.crashes]))


@contextmanager
def serving(root: Path) -> Iterator[dict[str, str]]:
    """Serve ``root/models/user/repo`` and ``root/datasets/user/repo``; yields the environment of a client."""
    with running(root) as hub:
        yield hub.environment


def client(
    environment: dict[str, str], code: str, *arguments: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, which has nobody to ask."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, cwd=folder,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
