"""Commits: the lines of a request become one new state, or nothing changes."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator

from tests.support.hub.access import commit_at, need_owner, need_writer
from tests.support.hub.card import errors
from tests.support.hub.store import REGULAR_BYTES, Blob, Commit, Pull, Repo, Store, large, regular
from tests.support.hub.wire import Answer, Refused, Request, as_json

Line = tuple[str, dict]


def commit(store: Store, repo: Repo, request: Request, rest: list[str]) -> Answer:
    """``POST commit/REV[?create_pr=1]``, NDJSON: a header, then one operation on each line."""
    pull = request.flag("create_pr")
    who = need_writer(request.account) if pull else need_owner(request.account, repo.name)
    base, ref = commit_at(repo, rest[0]), repo.ref(rest[0])
    if ref is None or ref.startswith("refs/tags/"):
        raise Refused(400, f"{rest[0]} is no branch and no pull request: nothing can be committed to it")
    (key, header), *lines = [*_lines(request), ("", {})]
    if key != "header" or not header.get("summary"):
        raise Refused(400, "the first line must be a header with a summary")
    parent = header.get("parentCommit")
    if parent and parent != base.oid:
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    files = _applied(store, repo, base, lines[:-1])
    made = Commit(files, header["summary"], header.get("description", ""), who.name, base)
    url = f"http://{request.host}/{'' if repo.kind == 'models' else f'{repo.kind}/'}{repo.name}"
    answer = {"success": True, "commitOid": made.oid, "commitUrl": f"{url}/commit/{made.oid}"}
    if pull:
        number = open_pull(repo, Pull(made.title, who.name, ref), made)
        answer["pullRequestUrl"] = f"{url}/discussions/{number}"
    else:
        repo.put(ref, made)
    return as_json(answer)


def open_pull(repo: Repo, pull: Pull, head: Commit) -> int:
    """The number of a new pull request."""
    number = max(repo.pulls, default=0) + 1
    repo.pulls[number] = pull
    repo.put(f"refs/pr/{number}", head)
    return number


def _lines(request: Request) -> Iterator[Line]:
    for text in request.body:
        try:
            line = json.loads(text)
            yield line["key"], line["value"]
        except (ValueError, KeyError, TypeError):
            raise Refused(400, f"expected an object with key and value, got {text[:100]!r}") from None


def _applied(store: Store, repo: Repo, base: Commit, lines: list[Line]) -> dict[str, Blob]:
    files = dict(base.files)
    for key, value in lines:
        path = _path(value.get("path"))
        if key == "file":
            files[path] = _regular(path, value)
        elif key == "lfsFile":
            files[path] = _large(store, repo, value)
        elif key in {"deletedFile", "deletedFolder", "deletedEntry"}:
            gone = [name for name in files if name.startswith(f"{path}/")] if key != "deletedFile" else []
            gone += [path] if path in files and key != "deletedFolder" else []
            if not gone:
                what = "folder" if key == "deletedFolder" else "file"
                raise Refused(404, f"A {what} with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise Refused(400, f"unknown operation {key!r}")
    for name in files:
        parts = name.split("/")
        if above := {"/".join(parts[:at]) for at in range(1, len(parts))} & files.keys():
            raise Refused(400, f"{above.pop()} cannot be a file and a folder")
    return files


def _path(path: object) -> str:
    path = str(path).rstrip("/")
    if not path or path.startswith("/") or {"", ".", "..", ".git"} & set(path.split("/")):
        raise Refused(400, f"invalid path {path!r}")
    return path


def _regular(path: str, value: dict) -> Blob:
    try:
        base64 = value.get("encoding") == "base64"
        content = b64decode(value["content"], validate=True) if base64 else value["content"].encode()
    except (ValueError, KeyError) as error:
        raise Refused(400, f"{path}: no content in base64: {error}") from None
    if len(content) > REGULAR_BYTES:
        raise Refused(400, f"{path}: files over {REGULAR_BYTES} bytes must be uploaded with LFS")
    if path == "README.md" and (said := errors(content.decode())):
        raise Refused(400, f"Invalid metadata in README.md: {'; '.join(said)}")
    return regular(content)


def _large(store: Store, repo: Repo, value: dict) -> Blob:
    oid = value.get("oid")
    if oid not in repo.objects:
        raise Refused(400, f"the LFS object {oid} of {value['path']} was not uploaded to this repository")
    known = [b for c in repo.commits.values() for b in c.files.values() if b.sha256 == oid]
    blob = known[0] if known else large(store.path(oid), oid)
    if value.get("size", blob.size) != blob.size:
        raise Refused(400, f"{value['path']}: expected {blob.size} bytes, got the size {value['size']}")
    return blob
