"""The Hub of the tests without a client: folders, cards, ranges, bad requests."""

from __future__ import annotations

import json
from base64 import b64encode
from http.client import HTTPConnection

import pytest

from tests.support.hub import TOKEN, card, running
from tests.support.hub.store import Commit, Store


def test_a_folder_shows_its_changes_until_something_is_pushed(tmp_path):
    file = tmp_path / "models" / "someone" / "net" / "a.txt"
    file.parent.mkdir(parents=True)
    store, seen = Store(tmp_path), []
    for content in ("1", "2"):
        file.write_text(content)
        seen.append(store.get("models", "someone/net").at("main"))
    repo = store.get("models", "someone/net")
    assert [commit.files["a.txt"].bytes() for commit in seen] == [b"1", b"2"]
    assert (repo.at(seen[0].oid), repo.at(seen[1].oid)) == (None, seen[1])
    repo.put("refs/heads/main", pushed := Commit({}, "a push", parent=seen[1]))
    file.write_text("3")
    assert store.get("models", "someone/net").at("main") is pushed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tags: [a]\nlicense: mit\nbase_model: timm/resnet18\nbase_model_relation: finetune", ""),
        ("tags: {a: 1}", '"tags" must be a string or an array of strings'),
        ("library_name: [timm]", '"library_name" must be a string'),
        ("base_model_relation: pruned", '"base_model_relation" must be one of [adapter, '),
        ("model-index: [{name: a}]", '"model-index" must hold objects'),
        ("- a", "YAML Error"),
        ("a: [", "YAML Error"),
    ],
)
def test_cards(text, said):
    found = card.errors(f"---\n{text}\n---\nText.\n")
    assert [line.startswith(said) for line in found] == [True] * bool(said)


@pytest.mark.parametrize(
    ("asked", "status", "inside", "got"),
    [
        (None, 200, None, b"0123456789"),
        ("bytes=2-4", 206, "bytes 2-4/10", b"234"),
        ("bytes=7-", 206, "bytes 7-9/10", b"789"),
        ("bytes=-3", 206, "bytes 7-9/10", b"789"),
        ("bytes=8-99", 206, "bytes 8-9/10", b"89"),
        ("bytes=10-", 416, "bytes */10", b""),
        ("bytes=0-1,3-4", 200, None, b"0123456789"),
        ("lines=1-2", 200, None, b"0123456789"),
    ],
)
def test_ranges(tmp_path, asked, status, inside, got):
    (tmp_path / "models" / "someone" / "net").mkdir(parents=True)
    (tmp_path / "models" / "someone" / "net" / "a.txt").write_text("0123456789")
    with running(tmp_path) as hub:
        link = HTTPConnection(hub.address.removeprefix("http://"))
        link.request("GET", "/someone/net/resolve/main/a.txt", headers={"Range": asked} if asked else {})
        answer = link.getresponse()
        assert (answer.status, answer.headers["Content-Range"], answer.read()) == (status, inside, got)
        link.close()


def test_head_answers_wherever_get_does(tmp_path):
    """Proxies and caches ask so: the same status, length and headers, and no body."""
    folder = tmp_path / "models" / "someone" / "net"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("0123456789")
    (folder / "w.safetensors").write_text("0123456789")
    readable = [f"/api/models/someone/net/{end}" for end in ("revision/main", "tree/main", "refs")]
    readable += [f"/api/models/someone/net/{end}" for end in ("commits/main", "auth-check", "discussions")]
    readable += ["/api/models/someone/net", "/api/whoami-v2", "/api/models/someone/none", "/nothing"]
    readable += [f"/someone/net/{kind}/main/{name}" for kind in ("resolve", "raw") for name in ("a.txt", "b")]
    rights = {"Authorization": f"Bearer {TOKEN}"}
    with running(tmp_path) as hub:
        link = HTTPConnection(hub.address.removeprefix("http://"))

        def asked(method: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
            link.request(method, path, headers=headers)
            answer = link.getresponse()
            kept = {key: value for key, value in answer.headers.items() if key not in {"Date"}}
            return answer.status, kept, answer.read()

        location = asked("GET", "/someone/net/resolve/main/w.safetensors", rights)[1]["Location"]
        cdn = f"/cdn/{location.split('/cdn/')[1]}"
        for path, headers in [
            *((path, rights) for path in readable),
            (cdn, {}),
            (cdn, {"Range": "bytes=2-4"}),
        ]:
            status, kept, body = asked("GET", path, headers)
            if status != 404 and "Range" not in headers:
                assert int(kept["Content-Length"]) == len(body)
            assert asked("HEAD", path, headers) == (status, kept, b""), path
        link.close()
    statuses = {entry.path: entry.status for entry in hub.log.find("HEAD")}
    assert [path for path, status in statuses.items() if status == 404] == [
        "/api/models/someone/none", "/nothing", "/someone/net/resolve/main/b", "/someone/net/raw/main/b",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        {"key": "file", "value": {"path": "../up.txt", "content": "", "encoding": "base64"}},
        {"key": "file", "value": {"path": "a.txt/below", "content": "", "encoding": "base64"}},
        {"key": "file", "value": {"path": "b.txt", "content": "%", "encoding": "base64"}},
        {"key": "lfsFile", "value": {"path": "w.safetensors", "algo": "sha256", "oid": "0" * 64, "size": 3}},
        {"key": "symlink", "value": {"path": "b.txt"}},
        {"value": 3},
    ],
)
def test_one_bad_line_commits_nothing(tmp_path, line):
    content = b64encode(b"new").decode()
    lines = [
        {"key": "header", "value": {"summary": "change"}},
        {"key": "file", "value": {"path": "a.txt", "content": content, "encoding": "base64"}},
    ]
    (tmp_path / "models" / "someone" / "net").mkdir(parents=True)
    (tmp_path / "models" / "someone" / "net" / "a.txt").write_text("old")
    with running(tmp_path) as hub:
        link = HTTPConnection(hub.address.removeprefix("http://"))
        for sent, status, expected in (([*lines, line], 400, b"old"), (lines, 200, b"new")):
            body = [json.dumps(row).encode() + b"\n" for row in sent]
            rights = {"Authorization": f"Bearer {TOKEN}"}
            link.request(
                "POST", "/api/models/someone/net/commit/main", iter(body), rights, encode_chunked=True
            )
            answer = link.getresponse()
            assert answer.status == status, answer.read()
            answer.read()
            link.request("GET", "/someone/net/resolve/main/a.txt")
            assert link.getresponse().read() == expected
        link.close()


def test_storage_takes_no_token(tmp_path):
    """The address of an LFS file is a secret of its own; a client that sends its token along leaks it."""
    (tmp_path / "models" / "someone" / "net").mkdir(parents=True)
    (tmp_path / "models" / "someone" / "net" / "w.safetensors").write_text("0123456789")
    with running(tmp_path) as hub:
        link = HTTPConnection(hub.address.removeprefix("http://"))
        link.request("HEAD", "/someone/net/resolve/main/w.safetensors")
        (answer := link.getresponse()).read()
        origin, path = answer.headers["Location"].split("/cdn/")
        assert (answer.status, origin) == (302, hub.address.replace("127.0.0.1", "localhost"))
        for headers, status, got in (({}, 200, b"0123456789"), ({"Authorization": "Bearer x"}, 400, b"{")):
            link.request("GET", f"/cdn/{path}", headers=headers)
            answer = link.getresponse()
            assert (answer.status, answer.read()[: len(got)]) == (status, got)
        link.close()
