"""Evaluating a model in its own evaluation mode, and reading its class scores."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from sigprune.base.errors import DataError
from sigprune.values.batch import Batch
from sigprune.values.view import View


class Inputs(Protocol):
    """A tensor whose first axis counts examples, or something that makes parts of it when asked."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: Tensor | slice, /) -> Tensor: ...


Split: TypeAlias = tuple[Inputs, Tensor]


def evaluate(view: View, test: Split, batch_size: int = 64) -> dict[str, float]:
    """Mean cross-entropy and accuracy of the module as it stands, in evaluation mode and without autocast.

    Args:
        view: the model; its modes are restored.
        test: inputs, examples first, and integer labels (examples,).
        batch_size: examples per forward pass; changes the cost and the last bits of the loss only.

    Returns:
        ``loss``, ``accuracy`` in [0, 1], and the number of ``examples``.

    Raises:
        DataError: labels that do not fit the inputs or the output of the model.

    Example:
        >>> from sigprune import describe
        >>> view = describe(torch.nn.Linear(8, 4))
        >>> split = torch.randn(64, 8), torch.arange(64) % 4
        >>> evaluate(view, split)["examples"]
        64
    """
    classes = class_count(test)
    loss, correct = 0.0, 0
    with view.using("eval").eval_mode(), torch.no_grad():
        for start in range(0, len(test[1]), batch_size):
            rows = slice(start, start + batch_size)
            output, target = logits(view, view.read((test[0][rows], test[1][rows])), classes)
            loss += float(functional.cross_entropy(output, target, reduction="sum").double())
            correct += int((output.argmax(1) == target).sum())
    return {"loss": loss / len(test[1]), "accuracy": correct / len(test[1]), "examples": len(test[1])}


def logits(view: View, batch: Batch, classes: int) -> tuple[Tensor, Tensor]:
    """Output (examples, classes) in float32 or wider, and the labels, of which there are ``classes``."""
    output = view.read_output(view.module(**batch.inputs))
    if batch.labels is None or output.dim() != 2 or len(output) != len(batch.labels):
        raise DataError(
            f"training expects an output of shape ({len(batch)}, classes), got {tuple(output.shape)}; "
            "give the model a classifier"
        )
    if classes > output.shape[1]:
        raise DataError(
            f"the labels go up to {classes - 1}, but the model has only {output.shape[1]} outputs; "
            "build it with as many classes as the data have"
        )
    return output.to(torch.promote_types(output.dtype, torch.float32)), batch.labels.long()


def class_count(split: Split) -> int:
    """One more than the largest label of a split that is well formed."""
    inputs, labels = split
    if labels.dim() != 1 or labels.is_floating_point() or len(inputs) != len(labels) or not len(labels):
        raise DataError(
            f"expected inputs and as many integer labels in one dimension, got {len(inputs)} inputs "
            f"and labels {tuple(labels.shape)} of {labels.dtype}"
        )
    if int(labels.min()) < 0:
        raise DataError(f"expected labels from 0 on, got {int(labels.min())}")
    return int(labels.max()) + 1
