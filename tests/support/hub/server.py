"""HTTP on loopback: requests in, answers out, with the faults that a test wants."""

from __future__ import annotations

import re
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import IO
from urllib.parse import unquote, urlsplit

from tests.support.hub.faults import Entry, Fault, Faults, Log
from tests.support.hub.routes import Routes
from tests.support.hub.store import CHUNK, Blob
from tests.support.hub.wire import Answer, Refused, Request, as_json


class Cut(Exception):
    """The connection ends here."""


@dataclass
class Hub:
    """A running Hub: the environment of its clients, its faults, its log, and what it holds."""

    routes: Routes
    faults: Faults = field(default_factory=Faults)
    log: Log = field(default_factory=Log)
    address: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    crashes: list[str] = field(default_factory=list)

    def answer(self, request: Request) -> Answer:
        """What the Hub says; its own mistakes are kept, so that no test passes over them."""
        try:
            return self.routes.answer(request)
        except Refused as refused:
            return refused.answer()
        except Exception:  # every mistake reaches the test through ``running``
            self.crashes.append(f"{request.method} {request.target}\n{traceback.format_exc()}")
            return as_json({"error": traceback.format_exc()}, 500)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments: object) -> None:
        """The log of the Hub holds the requests."""

    def do_GET(self) -> None:
        path, token = unquote(urlsplit(self.path).path), self.headers.get("Authorization")
        entry = Entry(self.command, path, self.headers.get("Range"), token)
        self.hub.log.entries.append(entry)
        fault = self.hub.faults.take(self.command, path)
        try:
            with tempfile.SpooledTemporaryFile(2**20) as body:
                fault.wait_first()
                self._receive(body, entry, fault)
                body.seek(0)
                self._send(self._answer(body, fault), entry, fault)
        except (Cut, ConnectionError):
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self, body: IO[bytes], fault: Fault) -> Answer:
        if fault.status:
            return Refused(fault.status, "a fault of the test", "", fault.headers).answer()
        return self.hub.answer(
            Request(self.command, self.path, self.headers, body, self.headers.get("Host", ""))
        )

    def _receive(self, body: IO[bytes], entry: Entry, fault: Fault) -> None:
        for chunk in self._chunks(self._body(), fault.cut_request, fault):
            entry.received += len(chunk)
            body.write(chunk)
        if fault.cut_request is not None:
            raise Cut

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            chunk = self.rfile.read(min(CHUNK, left))
            if not chunk:
                raise Cut  # the client is gone
            left -= len(chunk)
            yield chunk

    @staticmethod
    def _chunks(chunks: Iterable[bytes], stop: int | None, fault: Fault) -> Iterator[bytes]:
        """The chunks, up to where they are cut, at the pace that is wanted."""
        done = 0
        for chunk in chunks:
            kept = chunk if stop is None else chunk[: stop - done]
            done += len(kept)
            fault.wait(len(kept))
            if kept:
                yield kept
            if stop is not None and done >= stop:
                return

    def _send(self, answer: Answer, entry: Entry, fault: Fault) -> None:
        status, headers, body = answer.status, dict(answer.headers), answer.body
        size = body.size if isinstance(body, Blob) else len(body)
        start, stop = 0, size
        if isinstance(body, Blob) and status == 200 and (asked := span(entry.range, size)):
            start, stop = asked
            status = 206 if start < stop else 416
            inside = f"{start}-{stop - 1}" if start < stop else "*"
            headers["Content-Range"] = f"bytes {inside}/{size}"
        entry.status = status
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        chunks = body.chunks(start, stop) if isinstance(body, Blob) else [body[start:stop]]
        for chunk in self._chunks(chunks, fault.cut_answer, fault):
            entry.sent += len(chunk)
            self.wfile.write(chunk)
        if fault.cut_answer is not None:
            raise Cut


def span(header: str | None, size: int) -> tuple[int, int] | None:
    """Start and stop of a Range; an empty one cannot be satisfied; None without a single plain range."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if not found or found[1] + found[2] == "":
        return None
    if not found[1]:
        return max(0, size - int(found[2])), size
    start, stop = int(found[1]), min(int(found[2] or size) + 1, size)
    return (start, stop) if start < stop else (size, size)
