"""Fashion-MNIST, 70,000 images of 28x28 pixels, from its four IDX files (Debian: dataset-fashion-mnist)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from sigprune.base.errors import DataError
from sigprune.families.datasets import Data
from sigprune.families.datasets._shared import read_idx, standardise

PAPER = "Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747"
HUB = "zalando-datasets/fashion_mnist"
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_SPLITS = ("train", "t10k")
_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def load(*, folder: str | None = None) -> Data:
    """60,000 train and 10,000 test images (1, 28, 28) of 10 classes.

    Args:
        folder: where ``train-images-idx3-ubyte.gz`` and its three sisters lie; by default where Debian's
            package ``dataset-fashion-mnist`` puts them.

    Raises:
        DataError: the files are missing or are not what they should be.
    """
    place = Path(folder).expanduser() if folder is not None else _DEBIAN
    if not (place / "train-images-idx3-ubyte.gz").is_file():
        raise DataError(
            f"fashion_mnist: no train-images-idx3-ubyte.gz in {place}; install Debian's package "
            "(apt install dataset-fashion-mnist), or set the option folder to where the four .gz files lie; "
            "nothing is downloaded"
        )
    (train, train_labels), (test, test_labels) = (_split(place, name) for name in _SPLITS)
    train, test = standardise(train, test)
    source = f"Fashion-MNIST, 28x28 (IDX files; {len(train):,} train, {len(test):,} test)"
    return Data((train, train_labels), (test, test_labels), _CLASSES, source)


def _split(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Bytes (examples, 1, height, width) and int64 labels of one split.

    Raises:
        DataError: images and labels do not belong together, or a label is none of the ten.
    """
    path = folder / f"{name}-labels-idx1-ubyte.gz"
    images = read_idx(folder / f"{name}-images-idx3-ubyte.gz", 3)
    labels = read_idx(path, 1).long()
    if len(labels) != len(images):
        raise DataError(f"{path}: expected {len(images)} labels, one for each image, got {len(labels)}")
    if len(labels) == 0 or int(labels.max()) >= len(_CLASSES):
        raise DataError(f"{path}: expected labels 0 to 9 and at least one of them")
    return images[:, None], labels
