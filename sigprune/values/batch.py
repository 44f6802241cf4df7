"""Batches: named model inputs with, perhaps, their labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

import torch
from torch import Tensor

from sigprune.base.errors import DataError


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs by the name that the model's ``forward`` gives them, and labels.

    Attributes:
        inputs: tensors whose first axis counts examples.
        labels: integer classes, shape (examples,), or (examples, tokens) with -100 where there is none; or
            None.
        target: what the ``prepare`` of an objective made for this batch before the forward pass, or None.
    """

    inputs: Mapping[str, Tensor]
    labels: Tensor | None = None
    target: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def part(self, start: int, end: int) -> Batch | None:
        """Examples ``start`` to ``end`` (excluded); None if an input does not count the examples first."""
        tensors = [*self.inputs.values(), *(t for t in (self.labels, self.target) if isinstance(t, Tensor))]
        if any(t.dim() == 0 or len(t) != len(self) for t in tensors):
            return None
        return Batch(
            {name: tensor[start:end] for name, tensor in self.inputs.items()},
            None if self.labels is None else self.labels[start:end],
            None if self.target is None else self.target[start:end],
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Batch:
        """The batch on a device; floating-point inputs are cast to ``dtype`` if one is given."""
        moved = {
            k: v.to(device, dtype if v.is_floating_point() else None, non_blocking=True)
            for k, v in self.inputs.items()
        }
        labels = None if self.labels is None else self.labels.to(device)
        target = None if self.target is None else self.target.to(device)
        return replace(self, inputs=moved, labels=labels, target=target)


BatchLike: TypeAlias = Batch | Tensor | Sequence[Tensor] | Mapping[str, Tensor]


def as_batch(item: BatchLike, input_name: str) -> Batch:
    """Read what a data loader yields: a Batch, ``x``, ``(x, labels)``, or a mapping with ``labels``.

    Args:
        item: the loader's item.
        input_name: the name that the model gives an unnamed first input.

    Raises:
        DataError: the item is none of these, holds no example, or something else than dense tensors.

    Example:
        >>> as_batch((torch.zeros(2, 3), torch.tensor([0, 1])), "x").labels
        tensor([0, 1])
    """
    batch = _read(item, input_name)
    for name, tensor in batch.inputs.items():
        _expect_examples(f"input {name!r}", tensor)
    return batch


def expect_batches(batches: object) -> None:
    """What takes batches says to one batch, and to what cannot be iterated over; None passes.

    Raises:
        DataError: it is one of these.
    """
    pair = isinstance(batches, tuple) and len(batches) == 2 and all(isinstance(b, Tensor) for b in batches)
    labelled = pair and not cast("tuple[Tensor, Tensor]", batches)[1].is_floating_point()
    if isinstance(batches, Batch | Tensor | Mapping) or labelled:
        what = "pair (x, labels)" if labelled else type(batches).__name__
        raise DataError(f"batches: expected an iterable of batches, got one {what}: pass batches=[batch]")
    if batches is not None and (isinstance(batches, str) or not isinstance(batches, Iterable)):
        if hasattr(type(batches), "__getitem__") and not isinstance(batches, str):
            return  # the older protocol, which loaders of one's own may follow
        raise DataError(f"batches: expected an iterable of batches, got {type(batches).__name__}")


def _read(item: BatchLike, input_name: str) -> Batch:
    if isinstance(item, Batch):
        return _checked(item.inputs, item.labels, item)
    if isinstance(item, Tensor):
        return Batch({input_name: item})
    if isinstance(item, Mapping):
        inputs = {k: v for k, v in item.items() if k not in {"label", "labels"}}
        return _checked(inputs, item.get("labels", item.get("label")))
    if isinstance(item, list | tuple) and len(item) == 2:
        return _checked({input_name: item[0]}, item[1])
    raise DataError(f"{_EXPECTED}; got {_kind(item)}")


_EXPECTED = "a batch is a tensor x, a pair (x, labels), or a mapping of tensors (torch.from_numpy makes one)"


def _checked(inputs: Mapping[str, object], labels: object, item: Batch | None = None) -> Batch:
    """The batch of these inputs and labels, which must be tensors; ``item`` itself where that is given."""
    for name, value in inputs.items():
        if not isinstance(value, Tensor):
            raise DataError(f"{_EXPECTED}; got {_kind(value)} as {name!r}")
    if not inputs:
        raise DataError(f"{_EXPECTED}; got no input")
    if labels is not None and not isinstance(labels, Tensor):
        raise DataError(
            "expected labels as a tensor of integer classes, (examples,) or (examples, tokens), got "
            f"{_kind(labels)}; leave them out and take an objective that reads none (uniform), or a score "
            "without one (synflow, magnitude)"
        )
    return item or Batch(cast("Mapping[str, Tensor]", inputs), labels)


def _kind(value: object) -> str:
    """The type of a value, and of what a sequence holds."""
    name = type(value).__name__
    if isinstance(value, list | tuple) and value:
        return f"{name} of {type(value[0]).__name__}"
    return name


def _expect_examples(what: str, tensor: Tensor) -> None:
    """A dense tensor with values, whose first axis counts at least one example."""
    shape = tuple(tensor.shape)
    if tensor.layout is not torch.strided:
        raise DataError(
            f"a batch: expected {what} as a dense tensor, got {tensor.layout}; x.to_dense() is one"
        )
    if tensor.is_meta:
        raise DataError(f"a batch: {what} is on the meta device, where tensors have no values")
    if not shape:
        raise DataError(f"a batch: {what} has the shape (), expected one whose first axis counts examples")
    if shape[0] == 0:
        raise DataError(f"a batch: {what} holds no example, its shape is {shape}")
