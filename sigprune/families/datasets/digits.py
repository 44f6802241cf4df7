"""1,797 handwritten digits of 8x8 pixels that scikit-learn ships: no download, no network."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from sigprune.base.rng import derive
from sigprune.families.datasets import Data
from sigprune.families.datasets._shared import standardise_pixels

PAPER = "Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, doi 10.24432/C50P49"
_TEST = 360


def load() -> Data:
    """1,437 train and 360 test images (1, 8, 8) of 10 classes; a fixed split that keeps the class balance.

    The 17 levels of grey are rounded to 8 bits, as in an image file. Cost: seconds to import scikit-learn,
    then a tenth of one.
    """
    images, labels = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
    images = (images * 255 / 16).round().to(torch.uint8).reshape(-1, 1, 8, 8)
    test = _test_rows(labels)
    (train_images, test_images), normalisation = standardise_pixels(images[~test], images[test])
    return Data(
        train=(train_images, labels[~test]),
        test=(test_images, labels[test]),
        classes=tuple(str(c) for c in range(10)),
        source="handwritten digits, 8x8 (scikit-learn load_digits; 1,437 train, 360 test)",
        normalisation=normalisation,
    )


def _test_rows(labels: Tensor) -> Tensor:
    """True for the test rows: of each class its share of 360, lowest hash of the row number first.

    Hashes, and not a generator's permutation, so that no library's version can move an image.
    """
    counts = labels.bincount()
    shares = counts * _TEST // len(labels)
    leftover = (counts * _TEST % len(labels)).argsort(descending=True, stable=True)
    shares[leftover[: _TEST - int(shares.sum())]] += 1
    order = sorted(range(len(labels)), key=lambda row: derive(0, "digits split", str(row)))
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for row in order:
        if shares[labels[row]] > 0:
            chosen[row] = True
            shares[labels[row]] -= 1
    return chosen
