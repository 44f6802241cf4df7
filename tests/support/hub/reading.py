"""Answers that change nothing: what a repository holds, and its files."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import PurePosixPath
from urllib.parse import parse_qs, quote

from tests.support.hub.access import commit_at, need_files, need_owner, need_writer
from tests.support.hub.card import metadata
from tests.support.hub.store import Blob, Commit, Repo, Store, pointer, regular
from tests.support.hub.wire import Answer, Refused, Request, as_json

CDN = "cdn"


def info(repo: Repo, request: Request, rest: list[str]) -> Answer:
    """``GET /api/models/user/repo[/revision/REV]``."""
    commit = commit_at(repo, rest[0] if rest else "main")
    card, first = metadata(commit.files.get("README.md")), [*commit.history()][-1]
    tags = list(card.get("tags") or [])
    tags += [card[key] for key in ("library_name", "pipeline_tag") if card.get(key)]
    return as_json({
        "_id": hashlib.sha1(repo.name.encode(), usedforsecurity=False).hexdigest()[:24],
        "id": repo.name, "modelId": repo.name, "author": repo.name.partition("/")[0],
        "sha": commit.oid, "lastModified": commit.date, "createdAt": first.date,
        "private": repo.private, "gated": repo.gated, "disabled": False, "downloads": 0, "likes": 0,
        "tags": sorted(set(tags)), "cardData": card, "library_name": card.get("library_name"),
        "pipeline_tag": card.get("pipeline_tag"),
        "siblings": [_sibling(*item, request.flag("blobs")) for item in sorted(commit.files.items())],
    })  # fmt: skip


def _sibling(name: str, blob: Blob, details: bool) -> dict[str, object]:
    found: dict[str, object] = {"rfilename": name}
    if details:
        found |= {"size": blob.size, "blobId": blob.oid}
        if blob.sha256:
            found["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": _pointer_size(blob)}
    return found


def _pointer_size(blob: Blob) -> int:
    return len(pointer(blob.sha256 or "", blob.size))


def _rows(commit: Commit) -> dict[str, dict[str, object]]:
    """Every file and folder of a commit as the tree lists them."""
    rows: dict[str, dict[str, object]] = {}
    for name, blob in sorted(commit.files.items()):
        for folder in PurePosixPath(name).parents[:-1]:
            inside = "".join(b.oid for n, b in sorted(commit.files.items()) if n.startswith(f"{folder}/"))
            oid = hashlib.sha1(inside.encode(), usedforsecurity=False).hexdigest()
            rows.setdefault(str(folder), {"type": "directory", "path": str(folder), "oid": oid, "size": 0})
        rows[name] = {"type": "file", "path": name, "oid": blob.oid, "size": blob.size}
        if blob.sha256:
            lfs = {"oid": blob.sha256, "size": blob.size, "pointerSize": _pointer_size(blob)}
            rows[name]["lfs"] = lfs
    return rows


def tree(repo: Repo, request: Request, rest: list[str]) -> Answer:
    """``GET tree/REV[/FOLDER]``, all in one page."""
    commit, folder = commit_at(repo, rest[0]), "/".join(rest[1:])
    rows, deep = _rows(commit), request.flag("recursive")
    if folder and rows.get(folder, {}).get("type") != "directory":
        raise Refused(404, f"{folder} does not exist on {rest[0]!r}", "EntryNotFound")
    start = f"{folder}/" if folder else ""
    inside = [row for name, row in rows.items() if name.startswith(start) and name != folder]
    return as_json([row for row in inside if deep or "/" not in str(row["path"])[len(start) :]])


def paths_info(repo: Repo, request: Request, rest: list[str]) -> Answer:
    """``POST paths-info/REV``: the paths that exist; the body is a form or JSON."""
    if "json" in request.headers.get("Content-Type", ""):
        wanted = request.json()["paths"]
    else:
        wanted = parse_qs(request.body.read().decode()).get("paths", [])
    rows = _rows(commit_at(repo, rest[0]))
    return as_json([rows[path.rstrip("/")] for path in wanted if path.rstrip("/") in rows])


def refs(repo: Repo, request: Request, rest: list[str]) -> Answer:
    """``GET refs``."""

    def under(start: str) -> list[Mapping[str, str]]:
        short = 0 if start == "refs/pr/" else len(start)
        return [
            {"name": ref[short:], "ref": ref, "targetCommit": commit.oid}
            for ref, commit in repo.refs.items()
            if ref.startswith(start)
        ]

    found = {"branches": under("refs/heads/"), "tags": under("refs/tags/"), "converts": []}
    return as_json(found | ({"pullRequests": under("refs/pr/")} if request.flag("include_prs") else {}))


def commits(repo: Repo, request: Request, rest: list[str]) -> Answer:
    """``GET commits/REV``, the newest first, all in one page."""
    return as_json([
        {
            "id": c.oid,
            "title": c.title,
            "message": c.message,
            "authors": [{"user": c.author}],
            "date": c.date,
        }
        for c in commit_at(repo, rest[0]).history()
    ])


def auth_check(repo: Repo, request: Request, rest: list[str]) -> Answer:
    """``GET auth-check[/write]``."""
    need_files(repo, request.account)
    if rest == ["write"]:
        need_owner(request.account, repo.name)
    return as_json({})


def whoami(request: Request) -> Answer:
    """``GET /api/whoami-v2``."""
    who = request.account
    if who is None:
        raise Refused(401, "Invalid username or password.")
    token = {"type": "access_token", "accessToken": {"displayName": "test", "role": who.role}}
    return as_json({
        "type": "user", "id": who.name, "name": who.name, "fullname": who.name, "orgs": [], "auth": token,
    })  # fmt: skip


def resolve(store: Store, repo: Repo, request: Request, rest: list[str]) -> Answer:
    """``HEAD`` or ``GET /user/repo/resolve/REV/PATH``: the file, or where the CDN has it (LFS)."""
    need_files(repo, request.account)
    commit, name = commit_at(repo, rest[0]), "/".join(rest[1:])
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    blob = commit.files.get(name)
    if blob is None:
        raise Refused(404, "Entry not found", "EntryNotFound", headers)
    headers["ETag"] = f'"{blob.etag}"'
    headers["Content-Disposition"] = f"inline; filename*=UTF-8''{quote(PurePosixPath(name).name)}"
    if not blob.sha256:
        return Answer(200, blob, headers)
    store.with_digest[blob.sha256] = blob
    headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
    place = quote(f"{CDN}/{blob.sha256}/{repo.kind}/{repo.name}/{name}")
    # another origin, as on the Hub, so that clients must leave their token behind
    headers["Location"] = f"http://{request.host.replace('127.0.0.1', 'localhost')}/{place}"
    return Answer(302, b"Found. Redirecting", headers)


def raw(store: Store, repo: Repo, request: Request, rest: list[str]) -> Answer:
    """``HEAD`` or ``GET /user/repo/raw/REV/PATH``: what git holds, of an LFS file its pointer."""
    answer = resolve(store, repo, request, rest)
    if isinstance(answer.body, Blob):
        return answer
    blob = commit_at(repo, rest[0]).files["/".join(rest[1:])]
    held = regular(pointer(blob.sha256 or "", blob.size))
    return Answer(200, held, {"X-Repo-Commit": answer.headers["X-Repo-Commit"], "ETag": f'"{held.oid}"'})


def from_cdn(store: Store, request: Request) -> Answer:
    """The content of an LFS file, for whoever was sent here, once it was resolved."""
    need_no_token(request)
    blob = store.with_digest.get(request.parts[1])
    if blob is None:
        raise Refused(403, "AccessDenied")
    return Answer(200, blob, {"ETag": f'"{blob.sha256}"', "Accept-Ranges": "bytes"})


def need_no_token(request: Request) -> None:
    """Storage refuses signed addresses that come with a token, which must not leave the Hub."""
    if "Authorization" in request.headers:
        raise Refused(400, "Only one auth mechanism allowed; a token was sent to the storage")


def preupload(repo: Repo, request: Request, rest: list[str]) -> Answer:
    """``POST preupload/REV``: which files go to LFS, which are ignored, and what the Hub has of them."""
    if request.flag("create_pr"):
        need_writer(request.account)
    else:
        need_owner(request.account, repo.name)
    commit, body = commit_at(repo, rest[0]), request.json()
    ignore = commit.files.get(".gitignore")
    lines = (body.get("gitIgnore") or (ignore.bytes().decode() if ignore else "")).split()
    files = []
    for file in body.get("files", []):
        path, old = file["path"], commit.files.get(file["path"])
        lfs = commit.large(path, file["size"], b64decode(file.get("sample", "")))
        names = (path, PurePosixPath(path).name)
        files.append({
            "path": path,
            "uploadMode": "lfs" if lfs else "regular",
            "shouldIgnore": any(fnmatch(name, line) for line in lines for name in names),
            "oid": old.etag if old else None,
        })
    return as_json({"commitOid": commit.oid, "files": files})
