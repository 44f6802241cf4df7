"""Every data set keeps the contract of Data; files are read strictly."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from sigprune.base.errors import DataError
from sigprune.base.registry import MemberSpec
from sigprune.base.tensors import digest
from sigprune.families.datasets import Data, datasets
from sigprune.families.datasets._shared import read_idx, standardise
from sigprune.training.image_fitting import fit_images

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def idx(values: Tensor, magic: int | None = None) -> bytes:
    """The IDX bytes of a uint8 tensor, written from the format's description."""
    head = [0x0800 + values.dim() if magic is None else magic, *values.shape]
    return struct.pack(f">{len(head)}I", *head) + bytes(values.flatten().to(torch.uint8).tolist())


def write_split(folder: Path, name: str, images: Tensor, labels: Tensor) -> None:
    (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """A folder with the four files, small."""
    draw = torch.Generator().manual_seed(0)
    for name, count in {"train": 40, "t10k": 10}.items():
        images = torch.randint(256, (count, 5, 4), generator=draw, dtype=torch.uint8)
        write_split(tmp_path, name, images, torch.arange(count, dtype=torch.uint8) % 10)
    return tmp_path


def load(name: str, fashion: Path) -> Data:
    options = {"folder": str(fashion)} if name == "fashion_mnist" else {}
    choice = datasets.choose(MemberSpec(name, options))
    return choice.member.load(**choice.options)


@pytest.mark.parametrize("name", datasets.names())
def test_contract(name, fashion):
    data = load(name, fashion)
    for split in (data.train, data.test):
        if split is None:
            continue
        images, labels = split
        assert images.dtype is torch.float32
        assert images.dim() == 4
        assert labels.dtype is torch.int64
        assert labels.shape == (len(images),)
        assert 0 <= int(labels.min()) <= int(labels.max()) < len(data.classes)
    images = data.train[0].double()
    zeros, ones = torch.zeros(2, images.shape[1], dtype=torch.float64) + torch.tensor([[0.0], [1.0]])
    torch.testing.assert_close(images.mean((0, 2, 3)), zeros, atol=1e-6, rtol=0)
    torch.testing.assert_close(images.var((0, 2, 3), correction=0), ones, atol=1e-5, rtol=0)
    assert data.source
    assert datasets.get(name).PAPER


@pytest.mark.parametrize("name", datasets.names())
def test_every_call_gives_the_same_data(name, fashion):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = load(name, fashion)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = load(name, fashion)
    for a, b in [(first.train, second.train), (first.test, second.test)]:
        assert (a is None) == (b is None)
        if a is not None:
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_digits_are_split_by_class_and_never_move():
    data = datasets.get("digits").load()
    assert data.train[0].shape == (1437, 1, 8, 8)
    assert data.test[0].shape == (360, 1, 8, 8)
    whole = torch.cat([data.train[1], data.test[1]]).bincount()
    share = data.test[1].bincount() - whole * 360 / 1797
    assert float(share.abs().max()) < 1
    # The digest of the labels in split order: a split that moves makes results of different days differ.
    assert digest({"train": data.train[1], "test": data.test[1]})[:16] == "21fd51aad224d731"


def test_digits_splits_together_are_the_whole_set():
    images, labels = load_digits(return_X_y=True)
    data = datasets.get("digits").load()
    together = torch.cat([data.train[0], data.test[0]]).flatten(1)
    order = torch.cat([data.train[1], data.test[1]])
    # Undo the standardisation by the darkest and the brightest grey value, 0 and 16.
    restored = (together - together.min()) / (together.max() - together.min()) * 16
    rows = {(*row, label) for *row, label in torch.cat([restored.round(), order[:, None]], 1).int().tolist()}
    expected = {(*(int(v) for v in row), int(label)) for row, label in zip(images, labels, strict=True)}
    assert rows == expected


def test_noise_has_the_shape_asked_for():
    data = datasets.get("noise").load(examples=50, channels=2, size=6, classes=3)
    assert data.train[0].shape == (50, 2, 6, 6)
    assert data.test is None
    assert data.train[1].bincount(minlength=3).min() > 5
    with pytest.raises(DataError, match=r"noise\.classes: expected at least 1, got 0"):
        datasets.get("noise").load(classes=0)


def test_fashion_mnist_reads_what_was_written(fashion):
    data = load("fashion_mnist", fashion)
    raw = read_idx(fashion / "train-images-idx3-ubyte.gz", 3).double()
    expected = (raw - raw.mean()) / raw.std(correction=0)
    torch.testing.assert_close(data.train[0][:, 0].double(), expected, atol=1e-6, rtol=1e-6)
    assert data.train[1].tolist() == [i % 10 for i in range(40)]
    assert data.test[0].shape == (10, 1, 5, 4)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_debian():
    data = datasets.get("fashion_mnist").load()
    assert data.train[0].shape == (60000, 1, 28, 28)
    assert data.train[1].bincount().tolist() == [6000] * 10
    assert data.test[1].bincount().tolist() == [1000] * 10


def test_fashion_mnist_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"set the option folder to where the four \.gz files lie"):
        datasets.get("fashion_mnist").load(folder=str(tmp_path))


IMAGES, TRAIN_LABELS, TEST_LABELS = "train-images-idx3", "train-labels-idx1", "t10k-labels-idx1"
ONES = idx(torch.ones(40, 5, 4))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, b"no gzip at all", "expected a whole gzip file"),
        (IMAGES, gzip.compress(ONES)[:-12], "expected a whole gzip file"),
        (IMAGES, gzip.compress(b"\0\0"), "expected an IDX header of 16 bytes, got 2"),
        (IMAGES, gzip.compress(idx(torch.ones(800))), "magic number 0x00000803, got 0x00000801"),
        (IMAGES, gzip.compress(idx(torch.ones(40, 5, 4), 0x00000D03)), "got 0x00000d03"),
        (IMAGES, gzip.compress(ONES[:-1]), "expected 800 bytes, got 799"),
        (IMAGES, gzip.compress(ONES + b"x"), "expected 800 bytes, got 801"),
        (IMAGES, gzip.compress(ONES), "constant"),
        (TRAIN_LABELS, gzip.compress(idx(torch.ones(39))), "expected 40 labels, one for each image, got 39"),
        (TEST_LABELS, gzip.compress(idx(torch.full((10,), 10))), "expected labels 0 to 9"),
        (TEST_LABELS, None, "no such file"),
    ],
    ids=lambda each: "bytes" if isinstance(each, bytes) else None,  # gzip's hold the time, and workers differ
)
def test_bad_files_are_named(fashion, name, content, message):
    path = fashion / f"{name}-ubyte.gz"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load("fashion_mnist", fashion)
    assert path.name in str(caught.value) or message == "constant"


def test_standardise_uses_the_train_split_and_changes_no_argument():
    train = torch.randn(20, 3, 4, 4, dtype=torch.float64) * torch.tensor([1.0, 2.0, 5.0])[:, None, None] + 7
    test = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    before = train.clone()
    a, b = standardise(train, test)
    assert torch.equal(train, before)
    torch.testing.assert_close(a.mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    expected = -train.mean((0, 2, 3)) / train.std((0, 2, 3), correction=0)
    torch.testing.assert_close(b[0, :, 0, 0].double(), expected, atol=1e-5, rtol=1e-5)


def test_images_are_fitted_to_channels_and_size():
    images = torch.randn(3, 1, 8, 8)
    wide = fit_images(images, 3, (16, 12))
    assert wide.shape == (3, 3, 16, 12)
    assert torch.equal(wide[:, 0], wide[:, 2])
    assert torch.equal(fit_images(images, 1, (8, 8)), images)
    colour = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(fit_images(colour, 1, (8, 8)), colour.mean(1, keepdim=True))
    # Halving with antialiasing keeps the mean of a constant image, and of any image nearly so.
    torch.testing.assert_close(
        fit_images(torch.full((1, 1, 8, 8), 2.5), 1, (4, 4)), torch.full((1, 1, 4, 4), 2.5)
    )
    with pytest.raises(DataError, match="expected 4 channels, got 3"):
        fit_images(colour, 4, (8, 8))
