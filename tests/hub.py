"""A read-only Hub on loopback: it serves local folders the way the real clients ask for them.

The folder ``user/repo`` is the branch main, ``user/repo@v1`` the revision v1 (a slash in a revision is %2F);
each commit id is the digest of the files. Repositories of the users ``gated`` and ``private`` open with TOKEN
only, those of ``broken`` never. Xet and uploads are not spoken. The environment variable ``HF_ENDPOINT``
points clients at it (it is read when they are imported, so they run in a process of their own).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

KINDS = {"models": "", "datasets": "datasets/"}
TOKEN = "hf_right"


@contextmanager
def serving(root: Path) -> Iterator[dict[str, str]]:
    """Serve ``root/models/user/repo`` and ``root/datasets/user/repo``; yields the environment of a client."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"root": root}))
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    gone = {"HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"}
    inherited = {key: value for key, value in os.environ.items() if key not in gone}
    try:
        yield inherited | {
            "HF_ENDPOINT": address,
            "HF_HOME": str(root / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
    finally:
        server.shutdown()
        server.server_close()


def client(
    environment: dict[str, str], code: str, *arguments: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own, which has nobody to ask."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, cwd=folder,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    root: Path
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Requests are not logged."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[0] == "api" and len(parts) > 3 and parts[1] in KINDS:
            at = parts[5] if len(parts) > 5 else "main"
            if folder := self._opened(parts[1], parts[2:4], at):
                self._api(folder, parts[2:4], parts[4:])
        elif "resolve" in parts:
            at = parts.index("resolve")
            kind = parts[0] if parts[0] in KINDS else "models"
            if folder := self._opened(kind, parts[at - 2 : at], parts[at + 1]):
                self._file(folder, "/".join(parts[at + 2 :]))
        else:
            self._send(404, b"")

    def _opened(self, kind: str, repo: list[str], revision: str) -> Path | None:
        """The folder of a repository at a revision; None once it is answered that it does not open."""
        folder, given = self.root.joinpath(kind, *repo), self.headers.get("Authorization")
        missing = {"X-Error-Code": "RepoNotFound"}
        if repo[0] == "broken":
            self._send(500, b"")
        elif repo[0] == "gated" and given != f"Bearer {TOKEN}":
            self._send(403 if given else 401, b"", {"X-Error-Code": "GatedRepo"})
        elif repo[0] == "private" and given != f"Bearer {TOKEN}":
            self._send(404 if given else 401, b"", missing)
        elif not folder.is_dir():
            self._send(404, b"", missing)
        else:
            for candidate in (folder, *folder.parent.glob(f"{folder.name}@*")):
                name = unquote(candidate.name.partition("@")[2]) or "main"
                if revision in {name, _commit(_files(candidate))}:
                    return candidate
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        return None

    def _api(self, folder: Path, repo: list[str], rest: list[str]) -> None:
        files = _files(folder)
        commit = _commit(files)
        rows = [_row(folder, p) for p in sorted(folder.rglob("*"))]
        if rest[:1] == ["tree"]:
            inside, deep = folder.joinpath(*rest[2:]), "recursive=true" in self.path.lower()
            self._json([row for row in rows if _below(folder / row["path"], inside, deep)])
        elif rest[:1] == ["paths-info"]:
            wanted = json.loads(self._body)["paths"]
            self._json([row for row in rows if row["path"] in wanted])
        else:
            siblings = [{"rfilename": name} for name in files]
            self._json({
                "id": "/".join(repo),
                "sha": commit,
                "private": False,
                "siblings": siblings,
                "tags": [],
            })

    def _file(self, folder: Path, name: str) -> None:
        path, headers = folder / name, {"X-Repo-Commit": _commit(_files(folder))}
        if path.is_file():
            self._send(200, path.read_bytes(), headers | {"ETag": f'"{_digest(path)}"'})
        else:
            self._send(404, b"", headers | {"X-Error-Code": "EntryNotFound"})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _row(folder: Path, path: Path) -> dict[str, str | int]:
    name = str(path.relative_to(folder))
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
    return {"type": "file", "path": name, "oid": _digest(path), "size": path.stat().st_size}


def _below(path: Path, folder: Path, deep: bool) -> bool:
    return folder in path.parents if deep else path.parent == folder


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


def _commit(files: dict[str, Path]) -> str:
    text = "".join(f"{name}{_digest(path)}" for name, path in files.items())
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
