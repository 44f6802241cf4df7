"""Killed at any of its accesses to files, a save, a replacement or a pull leaves whole folders or none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sigprune.checkpoint.inspection import check
from sigprune.checkpoint.save import save
from sigprune.format.index import read_manifest
from sigprune.models.opening import open_model
from tests.checkpoint.test_checkpoint import pruned
from tests.support.hub import TOKEN, client, running

pytestmark = pytest.mark.slow

START = """
import json, os, signal, sys
from pathlib import Path

EVENTS = {"open", *("os." + name for name in ("mkdir", "rename", "remove", "rmdir", "listdir", "scandir"))}
home, every = Path(sys.argv[1]), int(sys.argv[2])

def killed(act):
    "The act in forks, of which each is killed at another event; then in one that comes to its end."
    number, ended = 1, False
    while not ended:
        child = os.fork()
        if not child:
            count = 0
            def hook(event, about):
                nonlocal count
                if event in EVENTS:
                    count += 1
                    if count == number:
                        os.kill(os.getpid(), signal.SIGKILL)
            sys.addaudithook(hook)
            act(number)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        seen(number, ended)
        number += every

def seen(number, ended):
    print(json.dumps([number, ended]), flush=True)
"""

SAVE = """
from sigprune import apply_, describe, open_model, prune, save
view = describe(open_model("timm:test_vit"))
mask = prune(view, sparsity=0.9, score="magnitude")
apply_(view, mask)
killed(lambda number: save(home / str(number) / "model", view, mask, codec="compact"))
"""

REPLACE = """
from sigprune import convert
from sigprune.format.index import read_manifest
turn = lambda number: ("first", "second")[number // every % 2]

def seen(number, ended):
    digest = read_manifest(home / "new" / "model").mask_digest
    print(json.dumps([number, ended, turn(number), digest]), flush=True)

killed(lambda number: convert(home / turn(number), home / "new" / "model", to="both", force=True))
"""

PULL = """
import shutil
from huggingface_hub import constants
from sigprune import pull
from sigprune.checkpoint.inspection import inspect
inspect("someone/net")

def act(number):
    shutil.rmtree(Path(constants.HF_HUB_CACHE), ignore_errors=True)
    pull("someone/net", home / str(number) / "model", dense=True)

killed(act)
"""


def run(code: str, folder: Path, every: int) -> list[list]:
    """What was seen after each fork."""
    done = subprocess.run(
        [sys.executable, "-c", START + code, str(folder), str(every)],
        env=dict(os.environ), capture_output=True, text=True, check=False, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def whole(folder: Path) -> int:
    """How many finished folders there are; each must verify."""
    found = list(folder.glob("*/model"))
    for path in found:
        assert check(path)["dense"] > 0
    return len(found)


def test_a_killed_save(tmp_path: Path) -> None:
    forks = run(SAVE, tmp_path, every=1)
    assert len(forks) > 10
    assert 0 < whole(tmp_path) < len(forks)
    (last,) = (number for number, ended in forks if ended)
    assert (tmp_path / str(last) / "model").is_dir()


@pytest.mark.skipif(sys.platform != "linux", reason="folders are exchanged on Linux alone")
def test_a_killed_replacement(tmp_path: Path) -> None:
    """One of the two models is there, whole, whenever the process is killed; nothing hidden stays."""
    digests = {}
    for name, sparsity in (("first", 0.5), ("second", 0.9)):
        save(tmp_path / name, *pruned(open_model("timm:test_vit"), sparsity=sparsity))
        digests[name] = read_manifest(tmp_path / name).mask_digest
    save(tmp_path / "new" / "model", *pruned(open_model("timm:test_vit"), sparsity=0.5))
    forks = run(REPLACE, tmp_path, every=3)
    assert len(forks) > 10
    assert {digest for *_, digest in forks} == set(digests.values())
    _, ended, source, digest = forks[-1]
    assert ended
    assert digest == digests[source]
    assert whole(tmp_path) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]


def test_a_killed_pull(tmp_path: Path) -> None:
    save(tmp_path / "net", *pruned(open_model("timm:test_vit")))
    (tmp_path / "pulled").mkdir()
    with running(tmp_path) as hub:
        environment = hub.environment | {"HF_TOKEN": TOKEN}
        push = "import sys; from sigprune import push; push(sys.argv[1], 'someone/net')"
        assert client(environment, push, str(tmp_path / "net")).returncode == 0
        done = client(environment, START + PULL, str(tmp_path / "pulled"), "15", fresh=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 5
    assert whole(tmp_path / "pulled") > 0
