"""Which request goes where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tests.support.hub import card, commits, managing, reading
from tests.support.hub.access import account, readable
from tests.support.hub.lfs import STORAGE, Transfers
from tests.support.hub.store import KINDS, Repo, Store
from tests.support.hub.wire import Answer, Refused, Request

Endpoint = Callable[[Repo, Request, list[str]], Answer]
ENDPOINTS: Mapping[tuple[str, str], Endpoint] = {
    ("GET", ""): reading.info,
    ("GET", "revision"): reading.info,
    ("GET", "tree"): reading.tree,
    ("POST", "paths-info"): reading.paths_info,
    ("GET", "refs"): reading.refs,
    ("GET", "commits"): reading.commits,
    ("GET", "auth-check"): reading.auth_check,
    ("POST", "preupload"): reading.preupload,
    ("PUT", "settings"): managing.settings,
    ("POST", "branch"): managing.branch,
    ("DELETE", "branch"): managing.branch,
    ("POST", "tag"): managing.tag,
    ("DELETE", "tag"): managing.tag,
    ("GET", "discussions"): managing.discussions,
    ("POST", "discussions"): managing.discussions,
}


class Routes:
    """The Hub without HTTP: a request gives an answer, one at a time."""

    def __init__(self, store: Store) -> None:
        self.store, self.transfers = store, Transfers(store)

    def answer(self, request: Request) -> Answer:
        """The answer; a HEAD is answered as a GET, whose body the server then keeps.

        Raises:
            Refused: it is an error.
        """
        with self.store.lock:
            method = "GET" if request.method == "HEAD" else request.method
            request = replace(request, method=method, account=account(request.headers))
            parts = request.parts
            if parts[0] == reading.CDN:
                return reading.from_cdn(self.store, request)
            if parts[0] == STORAGE and method in {"PUT", "POST"}:
                return self.transfers.put(request) if method == "PUT" else self.transfers.complete(request)
            if parts[0] == "api":
                return self._api(request, parts[1:])
            kind, at = (parts[0], 1) if parts[0] in KINDS else ("models", 0)
            user, name, *rest = [*parts[at:], "", ""]
            if rest[0] in {"resolve", "raw"} and method == "GET":
                repo = self._repo(request, kind, user, name)
                found = reading.resolve if rest[0] == "resolve" else reading.raw
                return found(self.store, repo, request, rest[1:-2])
            if rest[:3] == ["info", "lfs", "objects"] and name.endswith(".git") and method == "POST":
                repo = self._repo(request, kind, user, name[:-4])
                does = {"batch": self.transfers.batch, "verify": self.transfers.verify}
                if rest[3] in does:
                    return does[rest[3]](repo, request)
            raise _unknown(request)

    def _api(self, request: Request, parts: list[str]) -> Answer:
        match request.method, parts:
            case "GET", ["whoami-v2"]:
                return reading.whoami(request)
            case "POST", ["validate-yaml"]:
                return card.validate(request)
            case "POST", ["repos", "create"]:
                return managing.create(self.store, request)
            case "DELETE", ["repos", "delete"]:
                return managing.delete(self.store, request)
            case method, [kind, user, name, *rest] if kind in KINDS:
                repo = self._repo(request, kind, user, name)
                called, *rest = rest or [""]
                if (method, called) == ("POST", "commit"):
                    return commits.commit(self.store, repo, request, rest)
                if endpoint := ENDPOINTS.get((method, called)):
                    return endpoint(repo, request, rest)
        raise _unknown(request)

    def _repo(self, request: Request, kind: str, user: str, name: str) -> Repo:
        return readable(self.store, kind, f"{user}/{name}", request.account)


def _unknown(request: Request) -> Refused:
    return Refused(404, f"this Hub does not serve {request.method} {request.target}")
