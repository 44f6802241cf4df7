"""Faults of the tests' Hub, met by huggingface_hub: what is interrupted changes nothing, and resumes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from subprocess import DEVNULL, Popen

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.support.hub import TOKEN, Fault, Hub, running
from tests.support.hub.scripts import START, run

PUSH = """
push = lambda: api.upload_folder(repo_id=repo, folder_path=folder)
api.create_repo(repo, exist_ok=True)
said = fails(push)
says(said, len(api.list_repo_commits(repo)), [f for f in api.list_repo_files(repo) if f[0] != "."])
"""
BOTH = ["one.safetensors", "two.safetensors"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two large files."""
    (tmp_path / "push").mkdir()
    for at, name in enumerate(BOTH):
        save_file({"w": np.arange(60_000, dtype=np.float32) + at}, tmp_path / "push" / name)
    return tmp_path / "push"


def puts(hub: Hub) -> list[int | None]:
    return [entry.status for entry in hub.log.find("PUT")]


@pytest.mark.parametrize(
    "fault",
    [Fault(status=500), Fault(cut_request=100_000), Fault(status=429, headers={"Retry-After": "0"})],
    ids=["500", "cut", "429"],
)
def test_an_upload_that_fails_once_is_tried_again(tmp_path, folder, fault):
    with running(tmp_path) as hub:
        hub.faults.add("PUT", "*", fault, nth=2)
        assert run(hub, PUSH, folder) == [[None, 2, BOTH]]
        assert sorted(map(str, puts(hub))) == sorted(["200", "200", str(fault.status)])
        assert len(hub.log.find("POST", "*/commit/*")) == 1


def test_an_upload_that_keeps_failing_commits_nothing_and_resumes(tmp_path, folder):
    with running(tmp_path) as hub:
        hub.faults.add("PUT", "*", Fault(status=500), nth=2, times=100)
        ((error, commits, files),) = run(hub, PUSH, folder)
        assert (error[0], commits, files) == ("RuntimeError", 1, [])
        assert not hub.log.find("POST", "*/commit/*")
        hub.faults.clear()
        hub.log.clear()
        assert run(hub, PUSH, folder) == [[None, 2, BOTH]]
        assert puts(hub) == [200]  # the other one is there


@pytest.mark.parametrize("status", [409, 412, 500])
def test_a_commit_that_is_refused_changes_nothing(tmp_path, folder, status):
    with running(tmp_path) as hub:
        hub.faults.add("POST", "*/commit/*", Fault(status=status))
        assert run(hub, PUSH, folder) == [[["HfHubHTTPError", status], 1, []]]


def test_a_commit_whose_answer_is_lost_is_made(tmp_path, folder):
    with running(tmp_path) as hub:
        hub.faults.add("POST", "*/commit/*", Fault(cut_answer=0))
        ((error, commits, files),) = run(hub, PUSH, folder)
        assert (error[0], commits, files) == ("RemoteProtocolError", 2, BOTH)
        assert run(hub, PUSH, folder) == [[None, 2, BOTH]]


def test_large_files_go_in_parts(tmp_path, folder):
    with running(tmp_path) as hub:
        hub.routes.transfers.part_bytes = 100_000
        hub.faults.add("PUT", "*/2", Fault(status=500))
        assert run(hub, PUSH, folder) == [[None, 2, BOTH]]
        assert sorted(puts(hub)) == [200] * 6 + [500]
        assert sum(e.received for e in hub.log.find("PUT") if e.status == 200) == sum(
            path.stat().st_size for path in folder.iterdir()
        )


def test_a_client_that_is_killed_leaves_nothing(tmp_path, folder):
    with running(tmp_path) as hub:
        hub.faults.add("PUT", "*", Fault(pace=100_000), times=2)
        given = hub.environment | {"HF_TOKEN": TOKEN}
        with Popen([sys.executable, "-c", START + PUSH, str(folder)], env=given, stderr=DEVNULL) as process:
            while not any(entry.received for entry in hub.log.find("PUT")):
                assert process.poll() is None
                time.sleep(0.01)
            process.kill()
        hub.faults.clear()
        assert not hub.log.find("POST", "*/commit/*")
        assert not [path for path in (tmp_path / "lfs").glob("*") if path.is_file()]
        assert run(hub, PUSH, folder) == [[None, 2, BOTH]]


DOWNLOAD = """
from huggingface_hub import constants

constants.DOWNLOAD_CHUNK_SIZE = 2**14  # only whole chunks are kept, and they are of 10 MB
got = snapshot_download("someone/net")
says([(Path(got) / path.name).read_bytes() == path.read_bytes() for path in folder.iterdir()])
"""


def test_a_download_that_is_cut_goes_on_where_it_was(tmp_path, folder):
    (tmp_path / "models" / "someone").mkdir(parents=True)
    folder.rename(tmp_path / "models" / "someone" / "net")
    with running(tmp_path) as hub:
        hub.faults.add("GET", "/cdn/*/one.safetensors", Fault(cut_answer=150_000))
        assert run(hub, DOWNLOAD, tmp_path / "models" / "someone" / "net") == [[[True, True]]]
        asked = [(e.range, e.status) for e in hub.log.find("GET", "/cdn/*/one.safetensors")]
    (_, first), (resumed, second) = asked
    assert (first, second) == (200, 206)
    assert 0 < int(resumed.removeprefix("bytes=").removesuffix("-")) <= 150_000


def test_slow_answers(tmp_path, folder):
    with running(tmp_path) as hub:
        hub.faults.add("PUT", "*", Fault(delay=0.3))
        hub.faults.add("PUT", "*", Fault(pace=600_000))
        start = time.monotonic()
        assert run(hub, PUSH, folder) == [[None, 2, BOTH]]
    assert time.monotonic() - start > 0.3
