"""Repositories, branches, tags and pull requests: made, changed, removed."""

from __future__ import annotations

import re

from tests.support.hub.access import Account, commit_at, need_owner, need_writer, readable
from tests.support.hub.commits import open_pull
from tests.support.hub.store import Commit, Pull, Repo, Store
from tests.support.hub.wire import Answer, Refused, Request, as_json

NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_-])?")


def _named(request: Request) -> tuple[dict, str, str, Account]:
    body, who = request.json(), need_writer(request.account)
    name, user = str(body.get("name")), body.get("organization") or who.name
    if not NAME.fullmatch(name) or "--" in name or ".." in name or name.endswith(".git"):
        raise Refused(400, f"Invalid repo name: {user}/{name}")
    kind = {None: "models", "model": "models", "dataset": "datasets"}.get(body.get("type"))
    if kind is None:
        raise Refused(400, f"this Hub has models and datasets, got the type {body['type']!r}")
    return body, kind, f"{user}/{name}", who


def create(store: Store, request: Request) -> Answer:
    """``POST /api/repos/create``."""
    body, kind, name, who = _named(request)
    need_owner(who, name)
    url = f"http://{request.host}/{'' if kind == 'models' else f'{kind}/'}{name}"
    if store.get(kind, name):
        return as_json({"error": f"You already created this {kind[:-1]} repo", "url": url}, 409)
    repo = Repo(kind, name)
    _set(repo, body)
    store.add(repo)
    return as_json({"url": url, "name": name, "id": name})


def delete(store: Store, request: Request) -> Answer:
    """``DELETE /api/repos/delete``."""
    _, kind, name, who = _named(request)
    repo = readable(store, kind, name, who)
    need_owner(who, name)
    store.drop(repo)
    return as_json({})


def settings(repo: Repo, request: Request, rest: list[str]) -> Answer:
    """``PUT settings``: private, gated."""
    need_owner(request.account, repo.name)
    _set(repo, request.json())
    return as_json({"private": repo.private, "gated": repo.gated})


def _set(repo: Repo, body: dict) -> None:
    repo.private = body.get("visibility") == "private" or body.get("private", repo.private)
    repo.gated = body.get("gated", repo.gated)


def branch(repo: Repo, request: Request, rest: list[str]) -> Answer:
    """``POST`` or ``DELETE branch/NAME``."""
    need_owner(request.account, repo.name)
    name = "/".join(rest)
    if request.method == "DELETE":
        if name == "main":
            raise Refused(403, "The main branch cannot be deleted")
        return _unset(repo, f"refs/heads/{name}")
    if name.startswith("refs/"):
        raise Refused(400, f"Invalid branch name {name}")
    start = request.json().get("startingPoint") or "main"
    return _reference(repo, f"refs/heads/{name}", commit_at(repo, start))


def tag(repo: Repo, request: Request, rest: list[str]) -> Answer:
    """``POST tag/REV`` (the name is in the body) or ``DELETE tag/NAME``."""
    need_owner(request.account, repo.name)
    if request.method == "DELETE":
        return _unset(repo, f"refs/tags/{'/'.join(rest)}")
    return _reference(repo, f"refs/tags/{request.json()['tag']}", commit_at(repo, "/".join(rest)))


def _reference(repo: Repo, ref: str, commit: Commit) -> Answer:
    if ref in repo.refs:
        raise Refused(409, f"Reference already exists: {ref}")
    repo.put(ref, commit)
    return as_json({})


def _unset(repo: Repo, ref: str) -> Answer:
    if repo.refs.pop(ref, None) is None:
        raise Refused(404, f"Invalid rev id: {ref}", "RevisionNotFound")
    return as_json({})


def discussions(repo: Repo, request: Request, rest: list[str]) -> Answer:
    """``POST discussions`` (a draft pull request), ``GET discussions/N``, ``POST discussions/N/merge``."""
    if not rest:
        who, body = need_writer(request.account), request.json()
        if not body.get("pullRequest"):
            raise Refused(400, "this Hub has pull requests only, no discussions")
        pull = Pull(body["title"], who.name, "refs/heads/main", "draft")
        return as_json({"num": open_pull(repo, pull, commit_at(repo, "main"))})
    number = int(rest[0])
    if number not in repo.pulls:
        raise Refused(404, f"there is no discussion {number}")
    if rest[1:] == ["merge"] and request.method == "POST":
        need_owner(request.account, repo.name)
        _merge(repo, number)
    return as_json(_details(repo, number))


def _details(repo: Repo, number: int) -> dict[str, object]:
    pull, head = repo.pulls[number], repo.refs[f"refs/pr/{number}"]
    changes = {"base": pull.base} | ({"mergeCommitId": pull.merged} if pull.merged else {})
    return {
        "num": number, "title": pull.title, "status": pull.status, "isPullRequest": True,
        "author": {"name": pull.author}, "createdAt": head.date, "events": [], "diff": "",
        "repo": {"name": repo.name, "type": repo.kind[:-1]}, "changes": changes, "filesWithConflicts": [],
    }  # fmt: skip


def _merge(repo: Repo, number: int) -> None:
    pull, head = repo.pulls[number], repo.refs[f"refs/pr/{number}"]
    now = repo.refs[pull.base]
    if pull.status == "merged":
        raise Refused(409, f"the pull request {number} is merged already")
    behind = {commit.oid for commit in now.history()}
    start = next((commit for commit in head.history() if commit.oid in behind), Commit({}, ""))
    changed = [n for n in {*head.files, *start.files} if head.files.get(n) != start.files.get(n)]
    if clash := [name for name in changed if now.files.get(name) != start.files.get(name)]:
        raise Refused(409, f"{min(clash)} was changed on both sides")
    files = {name: blob for name, blob in now.files.items() if name not in changed}
    files |= {name: head.files[name] for name in changed if name in head.files}
    made = Commit(files, f"{pull.title} (#{number})", "", pull.author, now)
    repo.put(pull.base, made)
    pull.status, pull.merged = "merged", made.oid
