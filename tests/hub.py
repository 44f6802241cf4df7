"""A read-only Hub on loopback: it serves local folders the way the real clients ask for them.

Each commit id is the digest of a repository's files; every branch name leads to it. Xet and uploads are not
spoken. The environment variable ``HF_ENDPOINT`` points clients at it (it is read when they are imported, so
they run in a process of their own).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

KINDS = {"models": "", "datasets": "datasets/"}


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
            self._api(parts[1], parts[2:4], parts[4:])
        elif "resolve" in parts:
            at = parts.index("resolve")
            kind = parts[0] if parts[0] in KINDS else "models"
            self._file(kind, parts[at - 2 : at], "/".join(parts[at + 2 :]))
        else:
            self._send(404, b"")

    def _api(self, kind: str, repo: list[str], rest: list[str]) -> None:
        folder = self.root.joinpath(kind, *repo)
        if not folder.is_dir():
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
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

    def _file(self, kind: str, repo: list[str], name: str) -> None:
        folder = self.root.joinpath(kind, *repo)
        path = folder / name
        if not folder.is_dir() or not path.is_file():
            code = "EntryNotFound" if folder.is_dir() else "RepoNotFound"
            self._send(404, b"", {"X-Error-Code": code})
            return
        files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
        self._send(200, path.read_bytes(), {"ETag": f'"{_digest(path)}"', "X-Repo-Commit": _commit(files)})

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
