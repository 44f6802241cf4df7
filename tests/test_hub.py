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
from safetensors.torch import save_file

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
    assert "BadInput: someone/modle: cannot read its config.json" in unknown.stderr


@pytest.mark.parametrize(
    ("library", "architecture", "args"), [("timm", "test_resnet", {}), ("transformers", "vit", VIT)]
)
def test_a_repository_with_pickles_only_is_refused(tmp_path, library, architecture, args):
    model = adapters.get(library).build(architecture, args)
    folder = tmp_path / "models" / "someone" / "pickled"
    folder.mkdir(parents=True)
    adapters.get(library).write_config(model, folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with serving(tmp_path) as environment:
        for name in ("someone/pickled", str(folder)):
            done = client(environment, OPEN, name)
            assert done.returncode == 1
            assert done.stderr.splitlines()[-1].startswith("sigprune.base.errors.BadInput: "), done.stderr
            assert "safetensors" in done.stderr.splitlines()[-1]
