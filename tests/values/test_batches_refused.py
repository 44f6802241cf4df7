"""What is no batch of a model is refused in one line that says what was expected, what came, and where."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from sigprune import calibrate_, describe, jacobian, profile, prune, transfer, verify
from sigprune.base.errors import BadInput, DataError
from sigprune.propagation.layerwise import layer_isometry
from sigprune.values.batch import Batch, as_batch
from sigprune.values.mask import Mask
from sigprune.values.view import View
from tests.support.networks import SmallConv, mlp, seeded

X = torch.linspace(-1, 1, 72).reshape(6, 12)
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])

READERS: dict[str, Callable[[View, object], object]] = {
    "snip": lambda view, batch: prune(view, sparsity=0.5, score="snip", batches=[batch]),
    "wanda": lambda view, batch: prune(view, sparsity=0.5, score="wanda", batches=[batch]),
    "jacobian": jacobian,
    "calibrate_": calibrate_,
    "profile": profile,
    "verify": verify,
    "describe": lambda view, batch: describe(view.module, example=batch),
}

NO_BATCHES: dict[str, tuple[object, str]] = {
    "array": (np.zeros((6, 12)), r"torch\.from_numpy.*got ndarray"),
    "pair of arrays": ((np.zeros((6, 12)), np.zeros(6)), "got ndarray as 'input'"),
    "labels as a list": ((X, [0, 1, 2, 3, 0, 1]), "expected labels as a tensor.*got list of int"),
    "three": ((X, LABELS, LABELS), r"got tuple of Tensor"),
    "texts": (["a", "b"], r"got str as 'input'"),
    "number": (5, "got int"),
    "nothing": ({}, "got no input"),
    "text among the inputs": (
        {"input": X, "text": ["a"] * 6},
        "got list of str as 'text'",
    ),
    "list of labels": ({"input": X, "labels": [1] * 6}, "expected labels as a tensor.*got list of int"),
    "boxes": ({"input": X, "labels": [{"boxes": X}]}, "expected labels as a tensor.*got list of dict"),
    "array in a Batch": (
        Batch({"input": np.zeros((6, 12))}),
        "got ndarray as 'input'",
    ),
    "scalar": (torch.tensor(1.0), r"shape \(\).*first axis counts examples"),
    "no example": ((X[:0], LABELS[:0]), r"holds no example.*\(0, 12\)"),
    "meta": (X.to("meta"), "is on the meta device"),
    "sparse": (X.to_sparse(), "as a dense tensor, got torch.sparse_coo"),
    "NaN": ((X.clone().fill_(math.nan), LABELS), "input holds 72 of 72 values that are NaN or infinite"),
    "infinity": (
        (X.clone().index_fill_(0, torch.tensor(1), math.inf), LABELS),
        "input holds 12 of 72 values",
    ),
    "unknown name": ({"foo": X, "labels": LABELS}, "unknown input of Sequential 'foo'.*input"),
}


@pytest.fixture
def view() -> View:
    return describe(seeded(mlp()))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", NO_BATCHES)
def test_what_is_no_batch_is_refused_everywhere(view, kind, reader):
    item, message = NO_BATCHES[kind]
    with pytest.raises(DataError, match=message) as caught:
        READERS[reader](view, item)
    assert "\n" not in str(caught.value)


MISFITS: dict[str, tuple[Tensor, str]] = {
    "width": (torch.zeros(6, 5), r"input: float32 \(\*, 5\), the view's example: float32 \(\*, 12\)"),
    "integers": (
        torch.ones(6, 12, dtype=torch.int64),
        r"input: int64 \(\*, 12\), the view's example: float32",
    ),
    "booleans": (torch.ones(6, 12, dtype=torch.bool), "input: bool"),
    "complex": (torch.ones(6, 12, dtype=torch.complex64), "input: complex64"),
}


@pytest.mark.parametrize("reader", [name for name in READERS if name != "describe"])
@pytest.mark.parametrize("kind", MISFITS)
def test_a_batch_that_the_model_cannot_take_is_compared_with_one_that_it_can(view, kind, reader):
    inputs, message = MISFITS[kind]
    no_entry = reader in {"jacobian", "calibrate_", "verify"} and not inputs.is_floating_point()
    with pytest.raises(BadInput, match="takes integers" if no_entry else message) as caught:
        READERS[reader](view, (inputs, LABELS))
    assert "\n" not in str(caught.value)


def test_channels_of_images():
    view = describe(seeded(SmallConv()), example=torch.zeros(1, 3, 8, 8))
    with pytest.raises(
        DataError, match=r"x: float32 \(\*, 1, 8, 8\), the view's example: float32 \(\*, 3, 8, 8\)"
    ):
        layer_isometry(view, torch.ones(2, 1, 8, 8))
    assert view.forward({}, view.read(torch.ones(2, 3, 12, 12))).shape == (2, 4)  # any size will do


def test_ids_that_are_no_integers():
    config = BertConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12
    )
    view = describe(BertForSequenceClassification(config))
    with pytest.raises(DataError, match=r"input_ids: float32 \(\*, 5\), the view's example: int64"):
        prune(view, sparsity=0.5, score="wanda", batches=[torch.zeros(2, 5)])
    with pytest.raises(DataError, match=r"input input_idz: int64 \(\*, 5\), the view's example: none"):
        view.forward({}, view.read({"input_idz": torch.zeros(2, 5, dtype=torch.int64)}))
    additive = torch.zeros(2, 1, 5, 5).masked_fill(torch.ones(5, 5).triu(1) > 0, -math.inf)
    view.read({"input_ids": torch.ones(2, 5, dtype=torch.int64), "attention_mask": additive})  # no fault
    with pytest.raises(DataError, match="attention_mask holds 50 of 50 values that are NaN"):
        view.read({"input_ids": torch.ones(2, 5, dtype=torch.int64), "attention_mask": additive * math.nan})


def test_an_error_of_the_model_itself_is_not_explained_away():
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError(f"the model's own, at {len(x)}")

    with pytest.raises(RuntimeError, match=r"^the model's own, at 6"):
        describe(Broken()).forward({}, Batch({"x": X}))


def test_a_model_that_takes_more_than_the_example_shows_may_do_so():
    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(12, 4)

        def forward(self, x: Tensor, **_: Tensor) -> Tensor:
            return self.fc(x.float() / 255)

    view = describe(seeded(Pixels()))
    prune(view, sparsity=0.5, batches=[(torch.arange(72, dtype=torch.uint8).reshape(6, 12), LABELS)])
    assert list(view.read({"x": X, "anything": X}).inputs) == ["x", "anything"]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (5, r"expected an iterable of batches, got int"),
        (X, r"expected an iterable of batches, got one Tensor.*batches=\[batch\]"),
        ((X, LABELS), r"expected an iterable of batches, got one pair.*batches=\[batch\]"),
        ({"input": X}, r"expected an iterable of batches, got one dict"),
        (Batch({"input": X}, LABELS), r"expected an iterable of batches, got one Batch"),
        ("abc", r"expected an iterable of batches, got str"),
    ],
)
def test_one_batch_is_no_iterable_of_batches(view, batches, message):
    with pytest.raises(DataError, match=message):
        prune(view, sparsity=0.5, batches=batches)
    mask = Mask.dense(view.prunable_shapes())
    with pytest.raises(DataError, match=message):
        transfer(view, mask, batches=batches)


@pytest.mark.parametrize("sparsity", ["0.5", None, [0.5], torch.tensor(0.5), True, math.nan, 1, -0.1])
def test_what_is_no_sparsity(view, sparsity):
    with pytest.raises(BadInput, match=r"a number: expected 0 <= sparsity < 1, got"):
        prune(view, sparsity=sparsity, score="magnitude")


@pytest.mark.parametrize("sparsity", [np.float64(0.5), np.float32(0.5), 0])
def test_what_is_one(view, sparsity):
    assert prune(view, sparsity=sparsity, score="magnitude").sparsity == pytest.approx(
        float(sparsity), abs=1e-3
    )


def test_what_is_a_batch():
    for item in (X, (X, LABELS), [X, LABELS], {"x": X, "labels": LABELS}, {"x": X, "label": LABELS}):
        assert torch.equal(as_batch(item, "x").inputs["x"], X)
