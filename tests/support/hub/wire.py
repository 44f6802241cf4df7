"""What travels: requests, answers, refusals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from tests.support.hub.access import Account
    from tests.support.hub.store import Blob


@dataclass(frozen=True)
class Request:
    """One request with its whole body; ``parts`` are the unquoted segments of the path."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: IO[bytes]
    host: str
    account: Account | None = None

    @property
    def parts(self) -> list[str]:
        return [unquote(part) for part in urlsplit(self.target).path.strip("/").split("/")]

    def query(self, name: str) -> str:
        """The value of a query parameter, or nothing."""
        return parse_qs(urlsplit(self.target).query).get(name, [""])[0]

    def flag(self, name: str) -> bool:
        """Whether a query parameter is set, in the spellings of the clients."""
        return self.query(name).lower() in {"1", "true"}

    def json(self) -> dict:
        """The body as a JSON object.

        Raises:
            Refused: it is none.
        """
        try:
            value = json.loads(self.body.read() or b"{}")
        except ValueError as error:
            raise Refused(400, f"the body is no JSON: {error}") from None
        if not isinstance(value, dict):
            raise Refused(400, f"expected a JSON object, got {type(value).__name__}")
        return value


@dataclass(frozen=True)
class Answer:
    """What goes back; a blob as body obeys the Range of the request."""

    status: int = 200
    body: Blob | bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """An answer that is an error, with the code from which clients choose their exception."""

    def __init__(self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}

    def answer(self) -> Answer:
        """The refusal as the Hub words it: in the headers (for HEAD) and as JSON."""
        named = {"X-Error-Message": self.message.replace("\n", " ")}
        if self.code:
            named["X-Error-Code"] = self.code
        return as_json({"error": self.message}, self.status, {**named, **self.headers})


def as_json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer whose body is JSON."""
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})
