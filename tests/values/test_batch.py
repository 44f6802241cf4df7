"""What a data loader may yield, and what is said of everything else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sigprune import describe, jacobian, prune
from sigprune.base.errors import DataError
from sigprune.values.batch import Batch, as_batch
from tests.support.networks import mlp, seeded

X = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
BOXES = [{"class_labels": torch.tensor([1]), "boxes": torch.rand(1, 4)}, {"class_labels": torch.tensor([2])}]
ODD_LABELS = {
    "list of dict": BOXES,
    "list of int": [0, 1],
    "list of Tensor": [torch.tensor([0, 1]), torch.tensor([1])],
    "tuple of str": ("cat", "dog"),
    "ndarray": np.array([0, 1]),
    "dict": {"class": torch.tensor([0, 1])},
    "int": 3,
    "list": [],
}


@pytest.mark.parametrize(("kind", "labels"), ODD_LABELS.items(), ids=ODD_LABELS)
@pytest.mark.parametrize("wrap", ["pair", "mapping", "label", "batch"])
def test_labels_are_a_tensor(kind, labels, wrap):
    made = {
        "pair": (X, labels),
        "mapping": {"input": X, "labels": labels},
        "label": {"input": X, "label": labels},
        "batch": Batch({"input": X}, labels),
    }
    with pytest.raises(DataError, match=f"^expected labels as a tensor of integer classes.* got {kind};"):
        as_batch(made[wrap], "input")


@pytest.mark.parametrize("score", ["snip", "grasp", "prospr", "wanda"])
def test_scores_say_so(score):
    """Detection data (DETR): labels are a list of one mapping for each image."""
    view = describe(seeded(mlp()))
    with pytest.raises(DataError, match="got list of dict; leave them out"):
        prune(view, sparsity=0.5, score=score, batches=[{"input": X, "labels": BOXES}])
    with pytest.raises(DataError, match="got list of dict"):
        jacobian(view, (X, BOXES))


ODD_ITEMS = {
    "int": 3,
    "NoneType": None,
    "str": "text",
    "ndarray": np.zeros((2, 12), np.float32),
    "list of str": ["a", "b", "c"],
    "ndarray as 'input'": (np.zeros((2, 12), np.float32), torch.tensor([0, 1])),
    "list of str as 'text'": {"text": ["a", "b"], "labels": torch.tensor([0, 1])},
    "no input": {"labels": torch.tensor([0, 1])},
}


@pytest.mark.parametrize(("kind", "item"), ODD_ITEMS.items(), ids=ODD_ITEMS)
def test_batches_are_tensors(kind, item):
    with pytest.raises(DataError, match=f"^a batch is a tensor x, .*; got {kind}$"):
        prune(describe(seeded(mlp())), sparsity=0.5, score="snip", batches=[item])


def test_labels_may_be_missing():
    assert as_batch({"input": X}, "input").labels is None
    assert as_batch({"input": X, "labels": None}, "input").labels is None
    assert as_batch(X, "input").labels is None
    batch = Batch({"input": X})
    assert as_batch(batch, "input") is batch
