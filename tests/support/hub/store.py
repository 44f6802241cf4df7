"""What the Hub keeps: contents, commits with their history, repositories with their refs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from threading import RLock
from urllib.parse import unquote

KINDS = ("models", "datasets")
LARGE = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.parquet", "*.zip", "*.npz")
ATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE)
REGULAR_BYTES = 10 * 2**20  # at most this much goes into git itself
CHUNK = 2**16


@dataclass(frozen=True)
class Blob:
    """The content of a file: in memory, or (LFS) on disk under its SHA-256."""

    size: int
    oid: str
    source: bytes | Path
    sha256: str | None = None

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from start to stop, a chunk at a time."""
        if isinstance(self.source, bytes):
            yield from (self.source[at : min(at + CHUNK, stop)] for at in range(start, stop, CHUNK))
            return
        with self.source.open("rb") as file:
            file.seek(start)
            while start < stop and (chunk := file.read(min(CHUNK, stop - start))):
                start += len(chunk)
                yield chunk

    def bytes(self) -> bytes:
        return b"".join(self.chunks(0, self.size))


def regular(content: bytes) -> Blob:
    """A file in git itself, under the id that git gives it."""
    head = b"blob %d\0" % len(content)
    return Blob(len(content), hashlib.sha1(head + content, usedforsecurity=False).hexdigest(), content)


def pointer(sha256: str, size: int) -> bytes:
    """What git holds in place of an LFS file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def large(path: Path, sha256: str) -> Blob:
    """An LFS file."""
    size = path.stat().st_size
    return Blob(size, regular(pointer(sha256, size)).oid, path, sha256)


@dataclass(frozen=True, eq=False)
class Commit:
    """A state of all files; its id is a digest of them, of the title and of the history."""

    files: Mapping[str, Blob]
    title: str
    message: str = ""
    author: str = "someone"
    parent: Commit | None = None
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"))

    @cached_property
    def oid(self) -> str:
        text = [self.parent.oid if self.parent else "", self.title, self.message]
        text += [f"{name}\0{blob.etag}" for name, blob in sorted(self.files.items())]
        return hashlib.sha1("\0\0".join(text).encode(), usedforsecurity=False).hexdigest()

    def history(self) -> Iterator[Commit]:
        """This commit and those before it, the newest first."""
        at: Commit | None = self
        while at:
            yield at
            at = at.parent

    def large(self, path: str, size: int, sample: bytes = b"") -> bool:
        """Whether a file goes to LFS: by its name in .gitattributes, its size, or because it is binary."""
        named = self.files.get(".gitattributes")
        lines = (named.bytes().decode() if named else ATTRIBUTES).splitlines()
        patterns = [line.split()[0] for line in lines if "filter=lfs" in line]
        name = path.rpartition("/")[2]
        return size > REGULAR_BYTES or b"\0" in sample or any(fnmatch(name, p) for p in patterns)


@dataclass
class Pull:
    """A pull request; its head is the ref ``refs/pr/N``."""

    title: str
    author: str
    base: str
    status: str = "open"
    merged: str | None = None


@dataclass
class Repo:
    """A repository: its refs by their full names, every commit ever seen, the LFS objects it holds."""

    kind: str
    name: str
    private: bool = False
    gated: str | bool = False
    folder: Path | None = None
    refs: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    pulls: dict[int, Pull] = field(default_factory=dict)
    objects: set[str] = field(default_factory=set)

    def put(self, ref: str, commit: Commit) -> None:
        """Let a ref point to a commit."""
        self.refs[ref] = self.commits[commit.oid] = commit
        self.objects |= {blob.sha256 for blob in commit.files.values() if blob.sha256}

    def ref(self, revision: str) -> str | None:
        """The full name of a branch, tag or pull request; HEAD is main."""
        revision = "main" if revision == "HEAD" else revision
        names = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        return next((name for name in names if name in self.refs), None)

    def at(self, revision: str) -> Commit | None:
        """The commit of a branch, tag, pull request or (beginning of a) commit id."""
        if ref := self.ref(revision):
            return self.refs[ref]
        if not re.fullmatch("[0-9a-f]{7,40}", revision):
            return None
        found = [commit for oid, commit in self.commits.items() if oid.startswith(revision)]
        return found[0] if len(found) == 1 else None


class Store:
    """All repositories; one request at a time changes or reads them, under ``lock``.

    LFS objects lie under ``root/lfs``, everything else in memory. A folder ``root/models/user/repo`` is a
    repository whose branch main it shows, ``user/repo@v1`` its revision v1: whenever the folder changes, the
    ref starts again from a commit without history, until something is pushed there.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.lock = root, RLock()
        self.with_digest: dict[str, Blob] = {}  # what the CDN gives away, by SHA-256
        self._repos: dict[tuple[str, str], Repo | None] = {}
        self._shown: dict[Path, Commit] = {}
        self._digests: dict[tuple[Path, int, int], str] = {}

    def get(self, kind: str, name: str) -> Repo | None:
        """A repository as it is now, or None."""
        folder = self.root / kind / name
        if (kind, name) not in self._repos and folder.is_dir():
            owner = name.partition("/")[0]
            repo = Repo(kind, name, private=owner == "private", folder=folder)
            repo.gated = "auto" if owner == "gated" else False
            self._repos[kind, name] = repo
        found = self._repos.get((kind, name))
        if found and found.folder:
            self._show(found, found.folder)
        return found

    def add(self, repo: Repo) -> None:
        """A new repository, with the first commit that the Hub makes."""
        repo.put(
            "refs/heads/main", Commit({".gitattributes": regular(ATTRIBUTES.encode())}, "initial commit")
        )
        self._repos[repo.kind, repo.name] = repo

    def drop(self, repo: Repo) -> None:
        """Forget a repository; a folder that it came from stays, unserved."""
        self._repos[repo.kind, repo.name] = None

    def path(self, sha256: str) -> Path:
        """Where an LFS object lies."""
        return self.root / "lfs" / sha256

    def _show(self, repo: Repo, main: Path) -> None:
        for folder in (main, *main.parent.glob(f"{main.name}@*")):
            name = unquote(folder.name.partition("@")[2]) or "main"
            ref = name if name.startswith("refs/") else f"refs/heads/{name}"
            old, new = self._shown.get(folder), self._commit(folder)
            if repo.refs.get(ref) is old and (old is None or old.oid != new.oid):
                if old:
                    del repo.commits[old.oid]  # its contents are gone
                repo.put(ref, new)
                self._shown[folder] = new
            if name.startswith("refs/pr/"):
                repo.pulls.setdefault(int(name[8:]), Pull(f"Pull {name[8:]}", "someone", "refs/heads/main"))

    def _commit(self, folder: Path) -> Commit:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        files, rule = {}, Commit({}, "")
        for path in paths:
            name, stat = path.relative_to(folder).as_posix(), path.stat()
            if rule.large(name, stat.st_size):
                key = (path, stat.st_mtime_ns, stat.st_size)
                if key not in self._digests:
                    with path.open("rb") as file:
                        self._digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
                files[name] = large(path, self._digests[key])
            else:
                files[name] = regular(path.read_bytes())
        return Commit(files, "a folder")
