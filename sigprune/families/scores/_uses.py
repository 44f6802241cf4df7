"""What reaches each entry of a weight while a network runs: sums of squared inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, NoReturn, TypeGuard, cast

import torch
from torch import Tensor
from torch.autograd.graph import Node

from sigprune.base.errors import UnsupportedModel
from sigprune.base.tensors import Tensors
from sigprune.values.view import View

Function = Callable[..., object]

_REARRANGING = frozenset({
    "Alias", "AsStrided", "Cat", "Clone", "ConstantPadNd", "Expand", "Flip", "Gather", "Index", "IndexSelect",
    "Narrow", "Permute", "ReshapeAlias", "Select", "Slice", "Split", "SplitWithSizes", "Squeeze", "Stack",
    "T", "ToCopy", "Transpose", "Unbind", "UnsafeSplit", "UnsafeView", "Unsqueeze", "View",
})  # fmt: skip
"""Backward nodes of functions that move or copy entries without changing them."""


class Origin(NamedTuple):
    """Where a tensor comes from: the names of the leaves, and whether entries were only moved on the way."""

    names: tuple[str, ...]
    moved_only: bool


class Uses:
    """Collects, for every entry of the leaves, the sum of the squares that it was multiplied with.

    Attributes:
        sums: name -> sums so far, of the leaf's shape; float32, or float64 for float64 leaves.
        seen: names of the leaves that were used.
        reparametrised: names of weights that their module standardises or normalises: the sums of the tensor
            that it makes of them are those of the stored entries in the same places.
        mixed: names of stacks of kernels that are mixed before use (conditional convolutions): what they are
            multiplied with is no input.
        weights: names that are weights; the others are biases.
    """

    def __init__(self, view: View, leaves: Tensors, names: Sequence[str]) -> None:
        self.sums = {
            name: torch.zeros_like(leaves[name], dtype=torch.promote_types(leaves[name].dtype, torch.float32))
            for name in names
        }
        self.seen: set[str] = set()
        self.weights = frozenset(w.name for w in view.weights)
        self.reparametrised = frozenset(
            w.name for w in view.weights if w.standardised is not None or w.magnitude is not None
        )
        self.mixed = frozenset(w.name for w in view.weights if w.layout.shape and w.layout.stacked)
        self._leaves = {name: leaves[name] for name in names}
        self._names = {id(leaves[name]): name for name in names}

    def origin(self, tensor: Tensor) -> Origin:
        """Walk the graph of a tensor back to the leaves."""
        starts, moved_only = [tensor], True
        if tensor.grad_fn is not None:
            nodes = list(_nodes(tensor.grad_fn))
            ends = [node for node in nodes if node.name() == "torch::autograd::AccumulateGrad"]
            starts = [cast("Tensor", node.variable) for node in ends]  # type: ignore[attr-defined]
            ways = {node.name().partition("Backward")[0] for node in nodes if node not in ends}
            moved_only = ways <= _REARRANGING
        names = dict.fromkeys(self._names.get(id(start)) for start in starts)
        known = tuple(name for name in names if name is not None)
        return Origin(known, moved_only and len(known) == len(names))

    def owns(self, tensor: object) -> TypeGuard[Tensor]:
        """Whether a tensor comes from a leaf; others may require a gradient for reasons of their own."""
        return isinstance(tensor, Tensor) and tensor.requires_grad and bool(self.origin(tensor).names)

    def add(self, operand: Tensor, squares: Tensor) -> None:
        """Add sums of squares, broadcast to the shape of an operand that was made of leaves.

        Raises:
            UnsupportedModel: the operand is no rearrangement of leaves.
        """
        origin = self.origin(operand)
        squares = squares.expand(operand.shape)
        if not self.mixed.isdisjoint(origin.names):
            self.unsupported(operand, "is a stack of kernels that are mixed before they meet the input")
        if not origin.moved_only:
            name = origin.names[0]
            if (
                len(origin.names) > 1
                or name not in self.reparametrised
                or operand.shape != self.sums[name].shape
            ):
                self.unsupported(operand, "is changed before it is used")
            self.sums[name].add_(squares)
        elif not self._add_in_place(operand, origin, squares):
            chosen = [self._leaves[name] for name in origin.names]
            parts = torch.autograd.grad(operand, chosen, squares.to(operand.dtype), retain_graph=True)
            for name, part in zip(origin.names, parts, strict=True):
                self.sums[name].add_(part)
        self.seen.update(origin.names)

    def _add_in_place(self, operand: Tensor, origin: Origin, squares: Tensor) -> bool:
        """For a view of one leaf: the same view of its sums. A copy per expert would be quadratic in them."""
        if len(origin.names) != 1:
            return False
        leaf, total = self._leaves[origin.names[0]], self.sums[origin.names[0]]
        shared = operand.untyped_storage().data_ptr() == leaf.untyped_storage().data_ptr()
        repeats = any(s == 0 and n > 1 for s, n in zip(operand.stride(), operand.shape, strict=True))
        if not shared or repeats or total.stride() != leaf.stride():
            return False
        offset = operand.storage_offset() - leaf.storage_offset()
        total.as_strided(operand.shape, operand.stride(), offset).add_(squares)
        return True

    def add_inputs(self, inputs: Tensor, weight: object) -> None:
        """Add the squares of inputs (..., in) to a weight (out, in) or (in,), if it is made of leaves."""
        if self.owns(weight):
            self.add(weight, squared(inputs).reshape(-1, inputs.shape[-1]).sum(0))

    def add_ones(self, bias: object, count: float) -> None:
        """Add the constant input 1 of a bias, ``count`` times, if it is made of leaves."""
        if self.owns(bias):
            self.add(bias, torch.full((), count, device=bias.device))

    def activation(self, tensor: object) -> Tensor:
        """The tensor, made sure to be no weight.

        Raises:
            UnsupportedModel: it comes from a weight.
        """
        if not isinstance(tensor, Tensor):
            raise TypeError(f"expected a tensor, got {type(tensor).__name__}")
        if self.owns(tensor):
            self.unsupported(
                tensor, "is used otherwise than by a linear map, convolution, attention, recurrence"
            )
        return tensor

    def unsupported(self, operand: Tensor, why: str) -> NoReturn:
        """Name the weight whose inputs cannot be observed.

        Raises:
            UnsupportedModel: always.
        """
        raise UnsupportedModel(
            f"the inputs of {self.origin(operand).names[0]} cannot be observed: it {why}; exclude it "
            "(view.select, recipe: prune.exclude), or choose a score that does not need them"
        )


def run(func: Function, args: Sequence[object], kwargs: Mapping[str, object] | None = None) -> object:
    """Call a function with every tensor detached."""
    return func(*(_detached(part) for part in args), **{k: _detached(v) for k, v in (kwargs or {}).items()})


def _detached(part: object) -> object:
    if isinstance(part, list | tuple) and any(isinstance(p, Tensor) for p in part):
        return [_detached(p) for p in part]
    return part.detach() if isinstance(part, Tensor) else part


def _nodes(start: Node) -> Iterator[Node]:
    queue, met = [start], {start}
    while queue:
        node = queue.pop()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in met:
                met.add(following)
                queue.append(following)


def squared(inputs: Tensor) -> Tensor:
    """Squares of activations in at least float32: those of half precision overflow."""
    return inputs.detach().to(torch.promote_types(inputs.dtype, torch.float32)).square()


def sums_by_gradient(apply: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """For a linear map w -> f(w): the gradient of its summed output, which adds up what each entry meets.

    Args:
        apply: the map, with squared activations in it.
        like: shape and device of w.

    Returns:
        Of the shape of ``like``.
    """
    with torch.enable_grad():
        probe = torch.zeros_like(like, requires_grad=True)
        (gradient,) = torch.autograd.grad(apply(probe).sum(), probe)
    return gradient
