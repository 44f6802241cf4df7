"""What stands beside the weights of a repository is fetched with them; pickles and cards are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sigprune.checkpoint.save import save
from sigprune.models.opening import open_model
from tests.checkpoint.test_checkpoint import LIBRARIES, pruned
from tests.support.hub import Fault, client, running

WRITE = """
import json, sys
from sigprune.checkpoint.conversion import convert
from sigprune.checkpoint.prune_shards import prune_files
what, target = sys.argv[1:]
done = convert("user/net", target) if what == "convert" else prune_files("user/net", target, sparsity=0.5)
print(json.dumps([sorted(done.files), done.left]))
"""
BESIDE = ["1_Pooling/config.json", "vocab.txt"]


@pytest.fixture
def uploaded(tmp_path: Path) -> Path:
    model = open_model("transformers:bert", args=LIBRARIES["transformers:bert"])
    pruned(model)
    folder = tmp_path / "models" / "user" / "net"
    model.save_pretrained(folder)
    for name in [*BESIDE, "README.md", "1_Pooling/pytorch_model.bin", ".gitattributes"]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    return tmp_path


def test_settings_in_subfolders_are_fetched_and_nothing_else(uploaded: Path) -> None:
    packed, dense = "model.sparse.safetensors", "model.safetensors"
    weights = {"convert": [packed], "prune": [dense, packed]}
    with running(uploaded) as hub:
        for what, own in weights.items():
            done = client(hub.environment, WRITE, what, str(uploaded / what))
            assert done.returncode == 0, done.stderr
            files, left = json.loads(done.stdout)
            assert set(own) | set(BESIDE) < set(files)
            assert "generation_config.json" not in left
            assert left == ["1_Pooling/pytorch_model.bin", "README.md"]
            assert (uploaded / what / "1_Pooling" / "config.json").read_text() == "{}"
        assert not hub.log.find("GET", "*pytorch_model.bin") + hub.log.find("GET", "*README.md")
        # without a network: what the cache holds travels
        offline = client(hub.environment | {"HF_HUB_OFFLINE": "1"}, WRITE, "prune", str(uploaded / "offline"))
        assert offline.returncode == 0, offline.stderr
        assert set(BESIDE) < set(json.loads(offline.stdout)[0])


def test_a_listing_that_fails_leaves_nothing(uploaded: Path) -> None:
    with running(uploaded) as hub:
        hub.faults.add("GET", "/api/models/user/net*", Fault(status=500))
        done = client(hub.environment, WRITE, "prune", str(uploaded / "out"))
    assert done.returncode == 1
    assert "answered 500" in done.stderr.splitlines()[-1]
    assert "its list of files" in done.stderr.splitlines()[-1]
    assert not (uploaded / "out").exists()


PULL = """
import errno, shutil, sys
from sigprune import pull

def full(source, target):
    raise OSError(errno.ENOSPC, "No space left on device", str(target))

if sys.argv[2] == "target":
    shutil.copyfile = full
else:
    import huggingface_hub
    huggingface_hub.hf_hub_download = lambda *_, **__: full("", "cache")
pull("user/net", sys.argv[1], dense=True)
"""


def test_a_pull_to_a_full_disk_says_how_much_it_takes(tmp_path: Path) -> None:
    model = open_model("transformers:bert", args=LIBRARIES["transformers:bert"])
    folder = tmp_path / "models" / "user" / "net"
    sizes = {name: facts["bytes"] for name, facts in save(folder, *pruned(model)).items()}
    with running(tmp_path) as hub:
        lines = []
        for where in ("target", "cache"):
            done = client(hub.environment, PULL, str(tmp_path / "out"), where)
            assert done.returncode == 1
            lines.append(done.stderr.splitlines()[-1])
    full = f"NoSpace: {tmp_path / 'out'}: no space left on its disk: it takes at least"
    assert f"{full} {sum(sizes.values()):,} bytes, " in lines[0]
    assert f" in the cache ({hub.environment['HF_HOME']}/hub); make room" in lines[1]
    assert "BadInput: user/net: no space left for " in lines[1]
    assert not (tmp_path / "out").exists()
