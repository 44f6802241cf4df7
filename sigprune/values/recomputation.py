"""Activation checkpointing: graphs that need no second run of a network, and networks that insist on one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode

from sigprune.base.errors import UnsupportedModel

_CHECKPOINT = "torch.utils.checkpoint"
DETACHED = "None of the inputs have requires_grad=True"
"""How torch's warning starts where a checkpointed part (``use_reentrant=True``) is cut out of the graph."""

T = TypeVar("T")


class SelfContained(TorchFunctionMode):
    """Inside, the graph keeps what it needs instead of running parts of the network again.

    What runs again in a backward pass would find the parameters, the modes and the hooks of that moment, not
    those of the forward pass. ``torch.utils.checkpoint`` (``use_reentrant=False``) replaces saved tensors by
    saved-tensor hooks: from the first function on that a checkpointed part calls, hooks that keep the tensors
    stand in their place. A part that hides behind an ``autograd.Function`` and runs again in its backward
    pass (``use_reentrant=True``, fairscale) cannot be kept from it: parameters that it uses are noted.

    Attributes:
        hidden: the first parameter that such a function used without having been given it, or None.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.hidden: str | None = None
        self._names = {id(tensor): name for name, tensor in parameters.items()}

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        named = kwargs or {}
        _keep_tensors()
        if self.hidden is None and not torch.is_grad_enabled():
            self.hidden = self._hidden((*args, *named.values()))
        return func(*args, **named)

    def _hidden(self, arguments: Sequence[object]) -> str | None:
        used = [part for part in _flat(arguments) if id(part) in self._names]
        if not used:
            return None
        given = _given_to_function()
        if given is None:
            return None
        return next((self._names[id(part)] for part in used if id(part) not in given), None)

    def expect_nothing_hidden(self, architecture: str) -> None:
        """Refuse a network of which parts run again in the backward pass.

        Raises:
            UnsupportedModel: a parameter was used where its derivative is computed by a second run.
        """
        if self.hidden is not None:
            raise UnsupportedModel(rerun(architecture, self.hidden))


def rerun(architecture: str, name: str) -> str:
    """What to say of a network of which a part runs again in each backward pass."""
    return (
        f"{architecture} checkpoints activations inside an autograd.Function that runs {name} again in its "
        "backward pass (use_reentrant=True does): expected a network whose derivatives need no second run; "
        "switch checkpointing off while you score and measure, or take use_reentrant=False"
    )


def _keep_tensors() -> None:
    """Put hooks that keep tensors in the place of those of ``torch.utils.checkpoint``, if those are on top.

    Leaving the checkpointed part takes one pair of hooks off the stack, whichever it is.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    if hooks is not None and hooks[0].__module__ == _CHECKPOINT:
        torch._C._autograd._pop_saved_tensors_default_hooks()
        torch._C._autograd._push_saved_tensors_default_hooks(_pack, _unpack)


def _pack(tensor: Tensor) -> tuple[Tensor, int]:
    return tensor.detach(), tensor._version  # the tensor itself would be a reference cycle


def _unpack(packed: tuple[Tensor, int]) -> Tensor:
    tensor, version = packed
    if tensor._version != version:  # torch looks only where there are no hooks
        raise RuntimeError(
            "a tensor needed for a gradient was modified by an in-place operation in a checkpointed part"
        )
    return tensor


def _given_to_function() -> set[int] | None:
    """What the innermost ``autograd.Function.forward`` that is running was given; None if none is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        names = frame.f_code.co_varnames
        if frame.f_code.co_argcount and isinstance(frame.f_locals.get(names[0]), FunctionCtx):
            return {id(part) for part in _flat(tuple(frame.f_locals.values()))}
        frame = frame.f_back
    return None


def _flat(parts: Sequence[object]) -> Iterator[object]:
    for part in parts:
        if isinstance(part, list | tuple):
            yield from _flat(part)
        else:
            yield part


class CallbackModule(nn.Module):
    """A parent whose forward pass is a callback: parameters substituted in the module stay while it runs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, run: Callable[[], T]) -> T:
        """What ``run`` returns."""
        return run()


@contextmanager
def other_gradients_unchanged(value: Tensor, leaves: Iterable[Tensor]) -> Iterator[None]:
    """Inside, a backward pass from ``value`` may write to any leaf; only those named keep what it wrote."""
    chosen = {id(leaf) for leaf in leaves}
    others = [leaf for leaf in _leaves_of(value) if id(leaf) not in chosen]
    before = [leaf.grad for leaf in others]
    try:
        for leaf in others:
            leaf.grad = None
        yield
    finally:
        for leaf, gradient in zip(others, before, strict=True):
            leaf.grad = gradient


def add_gradient_(leaf: Tensor, gradient: Tensor | None) -> None:
    """Add to ``.grad``, if the leaf asks for one and there is something to add."""
    if leaf.requires_grad and gradient is not None:
        leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient


def _leaves_of(value: Tensor) -> Iterator[Tensor]:
    """The leaves that a backward pass from this tensor gives gradients to."""
    queue, met = [value.grad_fn], {value.grad_fn}
    while queue:
        node = queue.pop()
        if node is None:
            continue
        if node.name() == "torch::autograd::AccumulateGrad":
            yield node.variable  # type: ignore[attr-defined]
        for following, _ in node.next_functions:
            if following not in met:
                met.add(following)
                queue.append(following)
