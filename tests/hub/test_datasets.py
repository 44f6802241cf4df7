"""Data from the Hub, with the real clients against a small Hub on loopback, in processes of their own."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.hub import client, serving

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
