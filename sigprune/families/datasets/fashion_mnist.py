"""Fashion-MNIST, 70,000 images of 28x28 pixels: IDX files (Debian: dataset-fashion-mnist), else the Hub."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from sigprune.base.errors import DataError
from sigprune.families.datasets import Data
from sigprune.families.datasets._hub import read_hub
from sigprune.families.datasets._shared import read_idx, standardise_pixels

PAPER = "Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747"
HUB = "zalando-datasets/fashion_mnist"
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
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
            package ``dataset-fashion-mnist`` puts them, else the same images from the Hub.

    Raises:
        DataError: the files are missing or are not what they should be, or the Hub does not give them.
    """
    place = _DEBIAN if folder is None else Path(folder).expanduser()
    if _is_there(place):
        (train, train_labels), (test, test_labels) = (_split(place, name) for name in ("train", "t10k"))
        origin = "IDX files"
    elif folder is None:
        (train, train_labels), (test, test_labels) = _from_hub()
        origin = f"{HUB} on the Hub"
    else:
        raise DataError(
            f"fashion_mnist: no train-images-idx3-ubyte.gz in {place}; "
            "set the option folder to where the four .gz files lie, or leave it out"
        )
    (train, test), normalisation = standardise_pixels(train, test)
    source = f"Fashion-MNIST, 28x28 ({origin}; {len(train):,} train, {len(test):,} test)"
    return Data((train, train_labels), (test, test_labels), _CLASSES, source, normalisation)


def _is_there(folder: Path) -> bool:
    return (folder / "train-images-idx3-ubyte.gz").is_file()


def _from_hub() -> list[tuple[Tensor, Tensor]]:
    try:
        return [_checked(*read_hub(HUB, split), HUB) for split in ("train", "test")]
    except DataError as error:
        raise DataError(
            f"fashion_mnist: {error}; or install Debian's package (apt install dataset-fashion-mnist), "
            "or set the option folder to where the four IDX files lie"
        ) from error


def _split(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Bytes (examples, 1, height, width) and int64 labels of one split."""
    path = folder / f"{name}-labels-idx1-ubyte.gz"
    return _checked(
        read_idx(folder / f"{name}-images-idx3-ubyte.gz", 3)[:, None], read_idx(path, 1).long(), path
    )


def _checked(images: Tensor, labels: Tensor, origin: Path | str) -> tuple[Tensor, Tensor]:
    """Images and labels that belong together.

    Raises:
        DataError: their numbers differ, or a label is none of the ten.
    """
    if len(labels) != len(images):
        raise DataError(f"{origin}: expected {len(images)} labels, one for each image, got {len(labels)}")
    if len(labels) == 0 or not 0 <= int(labels.min()) <= int(labels.max()) < len(_CLASSES):
        raise DataError(f"{origin}: expected labels 0 to 9 and at least one of them")
    return images, labels
