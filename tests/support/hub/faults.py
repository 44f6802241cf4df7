"""Faults that a test switches on, and the log of what was asked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from threading import Lock


@dataclass(frozen=True)
class Fault:
    """What goes wrong.

    ``status`` (with ``headers``) answers in place of the Hub, which then does nothing. ``cut_request`` closes
    the connection after so many bytes of the request's body, and the Hub does nothing; ``cut_answer`` closes
    it after so many bytes of the answer's body, when the Hub has done what was asked. ``delay`` waits so many
    seconds before the request is looked at; ``pace`` lets so many bytes per second through, both ways.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_request: int | None = None
    cut_answer: int | None = None
    delay: float = 0
    pace: float | None = None

    def wait_first(self) -> None:
        """Spend the time before the request is looked at."""
        time.sleep(self.delay)

    def wait(self, count: int) -> None:
        """Spend the time of so many bytes."""
        if self.pace:
            time.sleep(count / self.pace)


@dataclass
class _Rule:
    method: str
    path: str
    nth: int
    times: int
    fault: Fault
    seen: int = 0

    def strikes(self, method: str, path: str) -> bool:
        if not (fnmatch(method, self.method) and fnmatch(path, self.path)):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


class Faults:
    """The rules in force; a test adds them while the Hub runs."""

    def __init__(self) -> None:
        self._rules: list[_Rule] = []
        self._lock = Lock()

    def add(self, method: str, path: str, fault: Fault, *, nth: int = 1, times: int = 1) -> None:
        """Let the nth request (from 1, counted from now) that fits the two patterns fail, and times - 1 more.

        Patterns are those of ``fnmatch`` (``*`` crosses slashes) over the unquoted path, as the log shows it.
        """
        with self._lock:
            self._rules.append(_Rule(method, path, nth, times, fault))

    def clear(self) -> None:
        """Nothing goes wrong any more."""
        with self._lock:
            self._rules.clear()

    def take(self, method: str, path: str) -> Fault:
        """The fault of a request: that of the first rule that strikes."""
        with self._lock:
            struck = [rule.fault for rule in self._rules if rule.strikes(method, path)]
        return struck[0] if struck else Fault()


@dataclass
class Entry:
    """One request: ``received`` and ``sent`` count the bytes of the bodies, ``status`` is None when cut."""

    method: str
    path: str
    range: str | None
    token: str | None
    received: int = 0
    sent: int = 0
    status: int | None = None


class Log:
    """The requests, in the order in which they came."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def clear(self) -> None:
        """Forget what came before."""
        self.entries.clear()

    def find(self, method: str = "*", path: str = "*") -> list[Entry]:
        """The requests that fit two patterns of ``fnmatch``."""
        return [e for e in list(self.entries) if fnmatch(e.method, method) and fnmatch(e.path, path)]
