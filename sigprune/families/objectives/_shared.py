"""Which predictions count, and checks of what objectives are given."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from sigprune.base.errors import DataError
from sigprune.values.batch import Batch

IGNORED = -100
"""The label of an example or token that has none: torch's and transformers' convention."""


def rows(output: Tensor, batch: Batch, member: str) -> Tensor:
    """The predictions that count, (predictions, classes): all examples, or all tokens but padding.

    Raises:
        DataError: the output is neither (examples, classes) nor (examples, tokens, classes), its padding
            cannot be told, or nothing but padding is there.
    """
    return select(output, counted(output, batch, member))


def select(values: Tensor, chosen: Tensor | None) -> Tensor:
    """(examples, n) as they are; the chosen of (examples, tokens, n), all if None, as (chosen, n)."""
    if chosen is not None:
        return values[chosen]
    return values.flatten(0, 1) if values.dim() == 3 else values


def counted(output: Tensor, batch: Batch, member: str) -> Tensor | None:
    """Boolean (examples, tokens), False for padding; None where every prediction counts.

    Raises:
        DataError: as :func:`rows`.
    """
    if output.dim() not in {2, 3}:
        raise DataError(
            f"the objective {member!r} expects an output (examples, classes) or (examples, tokens, classes), "
            f"got {tuple(output.shape)}"
        )
    mask = attention_mask(batch) if output.dim() == 3 else None
    if mask is None:
        return None
    if mask.shape != output.shape[:2]:
        raise DataError(
            f"the objective {member!r}: the attention mask has shape {tuple(mask.shape)}, the output "
            f"{tuple(output.shape)}: which tokens are padding cannot be told; leave the mask out if none is"
        )
    chosen = mask != 0
    if not bool(chosen.any()):
        raise DataError(f"the objective {member!r}: the attention mask says that all tokens are padding")
    return chosen


def unpadded(output: Tensor, batch: Batch, **_options: object) -> int:
    """How many predictions there are: one per example, or one per token that is not padding."""
    mask = attention_mask(batch) if output.dim() == 3 else None
    if mask is not None and mask.shape == output.shape[:2]:
        return int(mask.count_nonzero())
    return math.prod(output.shape[:-1]) if output.dim() in {2, 3} else len(batch)


def known(labels: Tensor) -> int:
    """How many of the labels say something."""
    return int((labels != IGNORED).sum())


def attention_mask(batch: Batch) -> Tensor | None:
    """Zero where a token is padding; the decoder's where there is one, as the output is the decoder's."""
    decoder = "decoder_" if "decoder_input_ids" in batch.inputs else ""
    return batch.inputs.get(f"{decoder}attention_mask")


def token_ids(batch: Batch, member: str) -> tuple[str, Tensor]:
    """The input that holds token ids (examples, tokens), with its name.

    That is the decoder's input where there is one, else ``input_ids``, else the only integer input of two
    axes.

    Raises:
        DataError: there is none, or it cannot be told.
    """
    for name in ("decoder_input_ids", "input_ids"):
        if name in batch.inputs:
            return name, _expect_ids(name, batch.inputs[name], member)
    names = [name for name, tensor in batch.inputs.items() if _are_ids(tensor) and not name.endswith("mask")]
    if len(names) != 1:
        given = {name: (tuple(t.shape), str(t.dtype)) for name, t in batch.inputs.items()}
        raise DataError(
            f"the objective {member!r} needs token ids: an input 'input_ids' of integers (examples, tokens), "
            f"got {given}"
        )
    return names[0], batch.inputs[names[0]]


def _are_ids(tensor: Tensor) -> bool:
    integer = not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype is not torch.bool
    return tensor.dim() == 2 and integer


def _expect_ids(name: str, tensor: Tensor, member: str) -> Tensor:
    if not _are_ids(tensor):
        raise DataError(
            f"the objective {member!r} expects {name!r} to be integers (examples, tokens), "
            f"got {tuple(tensor.shape)} of {tensor.dtype}"
        )
    return tensor


def expect_vocabulary(output: Tensor, ids: Tensor, member: str, task: str) -> None:
    """An output must have one prediction per token.

    Raises:
        DataError: it does not.
    """
    if output.dim() != 3 or output.shape[:2] != ids.shape:
        raise DataError(
            f"the objective {member!r} expects an output (examples, tokens, vocabulary) for token ids "
            f"{tuple(ids.shape)}, got {tuple(output.shape)}; open the model with a language head "
            f"(transformers: task {task})"
        )


def cross_entropy(output: Tensor, labels: Tensor, member: str) -> Tensor:
    """Mean cross-entropy of (n, classes) with integer labels (n,), -100 ignored.

    Raises:
        DataError: a label is out of range, or all are ignored.
    """
    classes, known = output.shape[-1], labels != IGNORED
    wrong = known & ((labels < 0) | (labels >= classes))
    if bool(wrong.any()):
        raise DataError(
            f"the objective {member!r}: expected labels from 0 to {classes - 1} (or {IGNORED}: ignored), as "
            f"the output has {classes} classes; got {int(labels[wrong][0])}"
        )
    if not bool(known.any()):
        raise DataError(f"the objective {member!r}: every label is {IGNORED}, nothing is left to predict")
    return functional.cross_entropy(output, labels.long(), ignore_index=IGNORED)


def prepared(batch: Batch, member: str) -> Tensor:
    """What the member's ``prepare`` left in the batch.

    Raises:
        DataError: the batch was not prepared.
    """
    if batch.target is None:
        raise DataError(
            f"the objective {member!r} got a batch without a target: take batches from Problem.batches(), "
            "which prepares them, or call the member's prepare(batch, setting) first"
        )
    return batch.target
