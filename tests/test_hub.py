"""By name from the Hub, with the real clients against a small Hub on loopback, in processes of their own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sigprune.base.tensors import digest
from sigprune.families.adapters import adapters
from tests.hub import serving

READ = """
import json
from sigprune.families.datasets import datasets
data = datasets.get("fashion_mnist").load()
rows = [[split[0].shape, split[1].tolist()] for split in (data.train, data.test)]
print(json.dumps([data.source, rows, float(data.train[0].mean()), float(data.train[0].std())]))
"""
WITHOUT_DEBIAN = """
from pathlib import Path
from sigprune.families.datasets import fashion_mnist
fashion_mnist._DEBIAN = Path("no/such/folder")
"""
OPEN = """
import sys
from sigprune import open_model
from sigprune.base.tensors import digest
model = open_model(sys.argv[1], pretrained=True)
print(type(model).__name__, digest(model.state_dict()))
"""
VIT = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip


def client(environment: dict[str, str], code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_images(folder: Path, train: int, test: int) -> None:
    """A repository like that of Fashion-MNIST: Parquet files with the columns image and label."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    draw = np.random.default_rng(0)
    (folder / "fashion_mnist").mkdir(parents=True)
    for split, count in {"train": train, "test": test}.items():
        images = [
            {"bytes": png(draw.integers(0, 256, (28, 28), np.uint8)), "path": None} for _ in range(count)
        ]
        rows = pyarrow.table({"image": images, "label": [i % 10 for i in range(count)]})
        parquet.write_table(rows, folder / "fashion_mnist" / f"{split}-00000-of-00001.parquet")


def test_fashion_mnist_comes_from_the_hub_where_there_are_no_files(tmp_path):
    write_images(tmp_path / "datasets" / "zalando-datasets" / "fashion_mnist", train=40, test=10)
    with serving(tmp_path) as environment:
        first = client(environment, WITHOUT_DEBIAN + READ)
    assert first.returncode == 0, first.stderr
    source, rows, mean, std = json.loads(first.stdout)
    assert source == "Fashion-MNIST, 28x28 (zalando-datasets/fashion_mnist on the Hub; 40 train, 10 test)"
    assert rows == [[[n, 1, 28, 28], [i % 10 for i in range(n)]] for n in (40, 10)]
    assert (mean, std) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-3))
    # what was fetched once is read without a network
    again = client(environment | {"HF_HUB_OFFLINE": "1"}, WITHOUT_DEBIAN + READ)
    assert again.stdout == first.stdout


def test_a_data_set_that_cannot_be_fetched_is_one_line(tmp_path):
    with serving(tmp_path) as environment:
        done = client(environment, WITHOUT_DEBIAN + READ)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("sigprune.base.errors.DataError: fashion_mnist: ")
    assert "zalando-datasets/fashion_mnist, split train: cannot be read from the Hub" in line
    assert "apt install dataset-fashion-mnist" in line


@pytest.mark.parametrize(
    ("library", "architecture", "args"),
    [
        ("timm", "test_resnet", {"num_classes": 7}),
        ("transformers", "vit", VIT),
    ],
)
def test_a_model_of_either_library_by_its_hub_id(tmp_path, library, architecture, args):
    model = adapters.get(library).build(architecture, args)
    folder = tmp_path / "models" / "someone" / "model"
    folder.mkdir(parents=True)
    adapters.get(library).write_config(model, folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    with serving(tmp_path) as environment:
        done = client(environment, OPEN, "someone/model")
        unknown = client(environment, OPEN, "someone/modle")
    assert done.stdout.split() == [type(model).__name__, digest(model.state_dict())], done.stderr
    assert unknown.returncode == 1
    assert "BadInput: someone/modle: http://127.0.0.1" in unknown.stderr


REFUSED = """
import json, sys
from sigprune import open_model
from sigprune.base.errors import BadInput
from sigprune.base.tensors import digest
said = {}
for ref in sys.argv[1:]:
    try:
        said[ref] = digest(open_model(ref, pretrained=True).state_dict())
    except BadInput as error:
        said[ref] = str(error)
print(json.dumps(said))
"""
COMMAND = "import sys; from sigprune.cli import main; sys.exit(main(sys.argv[1:]))"
CONFIGS = {
    "json": ('{"model_type": ', "its config.json is not JSON: "),
    "list": ("[1]", "expected an object in config.json, got list"),
    "neither": ('{"a": 1}', "its config.json has neither model_type"),
    "type": ('{"model_type": "vitt"}', "unknown transformers model type 'vitt'; did you mean vit"),
    "field": ('{"model_type": "vit", "hidden_size": "big"}', "'hidden_size' expected int, got str"),
    "architecture": ('{"architecture": "test_resnext_of_no_one"}', "test_resnext_of_no_one"),
    "code": (
        '{"model_type": "x", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}',
        "a model of type 'x' needs the repository's own code, which sigprune never runs; open it yourself",
    ),
}
NO_PICKLES = "there is no model.safetensors, and pickles are never read"


def write_model(folder: Path, library: str, factor: float = 1.0) -> str:
    """A small model of the library; returns the digest of its values."""
    architecture, args = ("test_resnet", {"num_classes": 7}) if library == "timm" else ("vit", VIT)
    model = adapters.get(library).build(architecture, args)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    folder.mkdir(parents=True)
    adapters.get(library).write_config(model, folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return digest(model.state_dict())


def say(environment: dict[str, str], *refs: str) -> dict[str, str]:
    done = client(environment, REFUSED, *refs)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_tokens_revisions_and_the_cache_are_honoured(tmp_path, library):
    home = tmp_path / "models" / "someone"
    main, old = write_model(home / "model", library), write_model(home / "model@v1.0", library, 2.0)
    gated = write_model(home / "gated", library)
    (home / "gated" / ".gated").write_text("hf_secret")
    with serving(tmp_path) as environment:
        names = ("model", "model@v1.0", "model@v9", "gated", "absent")
        said = say(environment, *(f"someone/{name}" for name in names))
        line = client(environment, COMMAND, "show", "someone/gated", "--pretrained")
        trusted = say(environment | {"HF_TOKEN": "hf_secret"}, "someone/gated")
    endpoint = environment["HF_ENDPOINT"]
    page = f"{endpoint}/someone/gated"
    gate = f"someone/gated: the repository is gated: accept its terms at {page}, then set HF_TOKEN"
    assert (said["someone/model"], said["someone/model@v1.0"]) == (main, old)
    assert said["someone/model@v9"] == "someone/model: it has no revision 'v9' (branch, tag or commit)"
    assert said["someone/gated"].startswith(gate)
    absent = f"someone/absent: {endpoint} has no such repository, or hides it: check its name"
    assert said["someone/absent"].startswith(absent)
    assert trusted == {"someone/gated": gated}
    assert (line.returncode, line.stdout) == (2, "")
    assert line.stderr.startswith(f"error: {gate}")
    assert line.stderr.count("\n") == 1
    # the server is gone: what was fetched once is there, and nothing else
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    said = say(offline, "someone/model", "someone/model@v1.0", "someone/other")
    assert (said["someone/model"], said["someone/model@v1.0"]) == (main, old)
    assert said["someone/other"] == (
        "someone/other: HF_HUB_OFFLINE is set, and the local cache does not have its config.json"
    )


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_repositories_that_hold_no_weights_to_trust(tmp_path, library):
    home = tmp_path / "models" / "someone"
    for name in ("pickled", "truncated", "partial", "nameless"):
        write_model(home / name, library)
    file = home / "pickled" / "model.safetensors"
    torch.save({}, home / "pickled" / "pytorch_model.bin")
    file.unlink()
    whole = (home / "truncated" / "model.safetensors").read_bytes()
    (home / "truncated" / "model.safetensors").write_bytes(whole[:-100])
    tensors = load_file(home / "partial" / "model.safetensors")
    lost = [name for name, tensor in tensors.items() if tensor.dim() > 1][1]
    save_file({k: v for k, v in tensors.items() if k != lost}, home / "partial" / "model.safetensors")
    (home / "nameless" / "config.json").unlink()
    with serving(tmp_path) as environment:
        refs = [f"someone/{name}" for name in ("pickled", "truncated", "partial", "nameless")]
        pickled, truncated, partial, nameless = say(environment, *refs).values()
        folder = say(environment, str(home / "pickled"))[str(home / "pickled")]
    assert pickled == f"someone/pickled: {NO_PICKLES}"
    assert folder == f"{home / 'pickled'}: {NO_PICKLES}"
    assert "incomplete metadata, file not fully covered" in truncated
    assert lost in partial
    assert nameless.startswith("someone/nameless: there is no config.json")


def test_configurations_of_no_known_model(tmp_path):
    """Nothing that a repository holds is run, whatever it says."""
    ran = tmp_path / "ran"
    for name, (text, _) in CONFIGS.items():
        folder = tmp_path / "models" / "someone" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(text)
        (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')")
        save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    with serving(tmp_path) as environment:
        said = say(environment, *(f"someone/{name}" for name in CONFIGS))
    for name, (_, message) in CONFIGS.items():
        assert message in said[f"someone/{name}"], name
        assert "\n" not in said[f"someone/{name}"]
    assert not ran.exists()
