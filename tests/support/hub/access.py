"""Who may do what.

Two accounts: ``stranger`` owns the user of that name, ``someone`` owns all others. A token that is not listed
is a stranger's who may only read. Without a token, and without rights, a private repository does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.support.hub.store import Commit, Repo, Store
from tests.support.hub.wire import Refused

TOKEN, READ_TOKEN = "hf_right", "hf_read"
STRANGER_TOKEN, INVALID_TOKEN = "hf_stranger", "hf_invalid"


@dataclass(frozen=True)
class Account:
    """A user with a token."""

    name: str
    role: str

    def owns(self, repo: str) -> bool:
        """Whether the user of a repository is this one, or an organisation that it belongs to."""
        return (repo.partition("/")[0] == "stranger") == (self.name == "stranger")


ACCOUNTS = {
    TOKEN: Account("someone", "write"),
    READ_TOKEN: Account("someone", "read"),
    STRANGER_TOKEN: Account("stranger", "write"),
}


def account(headers: Mapping[str, str]) -> Account | None:
    """Who asks.

    Raises:
        Refused: 401, the token is none.
    """
    token = headers.get("Authorization", "").removeprefix("Bearer ")
    if token == INVALID_TOKEN:
        raise Refused(401, "Invalid credentials in Authorization header")
    return ACCOUNTS.get(token, Account("stranger", "read")) if token else None


def readable(store: Store, kind: str, name: str, who: Account | None) -> Repo:
    """A repository that the account may see.

    Raises:
        Refused: 401 or 404, it does not exist as far as this account is told; 500 for the user ``broken``.
    """
    if name.startswith("broken/"):
        raise Refused(500, "Internal Error")
    repo = store.get(kind, name)
    if repo is None or (repo.private and not (who and who.owns(name))):
        message = "Repository not found" if who else "Invalid username or password."
        raise Refused(404 if who else 401, message, "RepoNotFound")
    return repo


def need_files(repo: Repo, who: Account | None) -> None:
    """The contents of a gated repository are for its owner.

    Raises:
        Refused: 401 or 403.
    """
    if repo.gated and not (who and who.owns(repo.name)):
        message = f"Access to model {repo.name} is restricted and you are not in the authorized list."
        raise Refused(403 if who else 401, message, "GatedRepo")


def need_writer(who: Account | None) -> Account:
    """An account that may write somewhere.

    Raises:
        Refused: 401 without a token, 403 with one for reading.
    """
    if who is None:
        raise Refused(401, "Invalid username or password.")
    if who.role != "write":
        raise Refused(403, "Forbidden: you must use a write token to upload to a repository.")
    return who


def need_owner(who: Account | None, name: str) -> Account:
    """An account that may write to a repository.

    Raises:
        Refused: 401 or 403.
    """
    who = need_writer(who)
    if not who.owns(name):
        user = name.partition("/")[0]
        raise Refused(403, f'You don\'t have the rights to write under the namespace "{user}"')
    return who


def commit_at(repo: Repo, revision: str) -> Commit:
    """The commit of a revision.

    Raises:
        Refused: 404, there is none.
    """
    if found := repo.at(revision):
        return found
    raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
