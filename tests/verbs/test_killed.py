"""Killed at random moments, a save or a pull leaves whole folders or none."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sigprune.values.packed import read_manifest
from sigprune.verbs.checkpoint import save
from sigprune.verbs.inspecting import check
from sigprune.verbs.opening import open_model
from tests.hub import TOKEN, client, running
from tests.verbs.test_checkpoint import pruned

pytestmark = pytest.mark.slow

SAVE = """
import sys
from pathlib import Path
from sigprune import apply_, describe, open_model, prune, save
view = describe(open_model("timm:test_vit"))
mask = prune(view, sparsity=0.9, score="magnitude")
apply_(view, mask)
print("ready", flush=True)
for number in range(10_000):
    save(Path(sys.argv[1]) / str(number) / "model", view, mask, codec="compact")
"""

REPLACE = """
import itertools, sys
from pathlib import Path
from sigprune import convert
home = Path(sys.argv[1])
print("ready", flush=True)
for source in itertools.cycle(("first", "second")):
    convert(home / source, home / "new" / "model", to="both", force=True)
"""

PULL = """
import shutil, sys
from pathlib import Path
from huggingface_hub import constants
from sigprune import pull
from sigprune.verbs.inspecting import inspect
inspect("someone/net")
print("ready", flush=True)
for number in range(10_000):
    shutil.rmtree(Path(constants.HF_HUB_CACHE), ignore_errors=True)
    pull("someone/net", Path(sys.argv[1]) / str(number) / "model", dense=True)
"""


def killed(code: str, folder: Path, environment: dict[str, str], after: float) -> None:
    """Run the code until it is ready, and for some seconds more; then SIGKILL."""
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(after)
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGKILL)


def whole(folder: Path) -> int:
    """How many finished folders there are; each must verify."""
    found = list(folder.glob("*/model"))
    for path in found:
        assert check(path)["dense"] > 0
    return len(found)


def test_a_killed_save(tmp_path: Path) -> None:
    draw = random.Random(0)
    counts = []
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        killed(SAVE, folder, dict(os.environ), after=draw.uniform(0.3, 1.0))
        counts.append(whole(folder))
    assert sum(counts) > 4


@pytest.mark.skipif(sys.platform != "linux", reason="folders are exchanged on Linux alone")
def test_a_killed_replacement(tmp_path: Path) -> None:
    """One of the two models is there, whole, whenever the process is killed."""
    draw = random.Random(2)
    digests = set()
    for name, sparsity in (("first", 0.5), ("second", 0.9)):
        save(tmp_path / name, *pruned(open_model("timm:test_vit"), sparsity=sparsity))
        digests.add(read_manifest(tmp_path / name).mask_digest)
    save(tmp_path / "new" / "model", *pruned(open_model("timm:test_vit"), sparsity=0.5))
    found = set()
    for _ in range(5):
        killed(REPLACE, tmp_path, dict(os.environ), after=draw.uniform(0.3, 1.0))
        assert whole(tmp_path) == 1
        found.add(read_manifest(tmp_path / "new" / "model").mask_digest)
    assert found <= digests


def test_a_killed_pull(tmp_path: Path) -> None:
    draw = random.Random(1)
    save(tmp_path / "net", *pruned(open_model("timm:test_vit")))
    with running(tmp_path) as hub:
        environment = hub.environment | {"HF_TOKEN": TOKEN}
        push = "import sys; from sigprune import push; push(sys.argv[1], 'someone/net')"
        assert client(environment, push, str(tmp_path / "net")).returncode == 0
        counts = []
        for number in range(3):
            folder = tmp_path / f"pulled-{number}"
            folder.mkdir()
            killed(PULL, folder, environment, after=draw.uniform(0.5, 1.5))
            counts.append(whole(folder))
    assert sum(counts) > 3
