"""What each convolution of a network is given, and whether it does what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sigprune.base.tensors import Tensors
from sigprune.values.batch import Batch
from sigprune.values.layout import Shape
from sigprune.values.view import View
from sigprune.values.weight import Weight

Hook = Callable[[nn.Module, tuple[object, ...], dict[str, object], object], None]

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}


@dataclass(eq=False)
class Given:
    """What one convolution was given in a forward pass.

    Attributes:
        size: of its input, per axis of the kernel; None if it was not run.
        calls: how often it was run; the size is that of the first time.
        explained: whether kernel, stride, padding and bias give what the module gave.
    """

    size: Shape | None = None
    calls: int = 0
    explained: bool = False


def convolution_inputs(view: View, params: Tensors, batch: Batch) -> dict[str, Given]:
    """Run the network once, and look at every convolution that a weight describes.

    Each is computed a second time from the weight's own description, so that a module that does something
    else (pads in a way of its own, rescales its kernel) is noticed instead of being measured wrongly. Hooks
    are removed again. Cost: one forward pass, with every convolution done twice.

    Args:
        view: the network.
        params: all parameters by name.
        batch: one example is enough.

    Returns:
        One entry for each weight with a convolution, by its name.
    """
    weights = [weight for weight in view.weights if weight.convolution is not None]
    found = {weight.name: Given() for weight in weights}
    handles = [
        view.module.get_submodule(_owner(weight.name)).register_forward_hook(
            _look(weight, params, found[weight.name]), with_kwargs=True
        )
        for weight in weights
    ]
    try:
        with torch.no_grad():
            view.forward(params, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _owner(name: str) -> str:
    """The path of the module that a weight belongs to, parametrised or not."""
    head, parametrised, _ = name.partition(".parametrizations.")
    if parametrised:
        return head
    return "" if name.startswith("parametrizations.") else name.rpartition(".")[0]


def _look(weight: Weight, params: Tensors, found: Given) -> Hook:
    def look(
        _module: nn.Module, inputs: tuple[object, ...], named: dict[str, object], output: object
    ) -> None:
        given = next(iter((*inputs, *named.values())), None)
        found.calls += 1
        if found.calls > 1 or not isinstance(given, Tensor) or given.dim() != len(weight.shape):
            return
        found.size = tuple(given.shape[2:])
        found.explained = isinstance(output, Tensor) and _explains(weight, params, given, output)

    return look


def _explains(weight: Weight, params: Tensors, given: Tensor, output: Tensor) -> bool:
    if weight.convolution is None:
        return False
    kernel = weight.effective(params).to(given.dtype)
    try:
        mine = weight.convolution.apply(kernel, given, weight.layout.groups)
    except (RuntimeError, ValueError):  # torch refuses the size with this padding
        return False
    if weight.bias is not None:
        mine = mine + params[weight.bias].to(mine.dtype).reshape(-1, *(1 for _ in given.shape[2:]))
    if mine.shape != output.shape:
        return False
    # rounding is that of the terms: a standardised kernel gives almost nothing for a constant image
    terms = float(kernel.abs().flatten(1).sum(1).max() * given.abs().max())
    allowed = _TOLERANCE.get(output.dtype, 0.05) * float(output.abs().max())
    allowed += 4 * torch.finfo(output.dtype).eps * terms
    return float((mine - output).abs().max()) <= allowed
