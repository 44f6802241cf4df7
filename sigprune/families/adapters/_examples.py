"""Deterministic example inputs, and the tensor of interest in what a model returns."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from sigprune.base.errors import UnsupportedModel


def ramp(*shape: int) -> Tensor:
    """An example input without randomness: float32 values that rise from -1 to 1."""
    return torch.linspace(-1.0, 1.0, max(torch.Size(shape).numel(), 1)).reshape(shape)


def first_input(module: nn.Module) -> str:
    """The name that ``module.forward`` gives its first input.

    Raises:
        UnsupportedModel: it takes none by name.
    """
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind in kinds:
            return parameter.name
    inner = [name for name, child in module.named_children() if any(True for _ in child.parameters())]
    hint = f", or describe the model inside: describe(model.{inner[0]})" if len(inner) == 1 else ""
    raise UnsupportedModel(
        f"{type(module).__name__}.forward has no named input; give it one, as in forward(self, x){hint}"
    )


def first_tensor(output: object) -> Tensor:
    """The tensor of interest in what a model returns: itself, its ``logits``, or the first of several.

    Raises:
        UnsupportedModel: there is no tensor in it.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    parts = tuple(output.values()) if isinstance(output, dict) else output
    for part in parts if isinstance(parts, tuple | list) else ():
        if isinstance(part, Tensor | tuple | list | dict):
            return first_tensor(part)
    raise UnsupportedModel(
        f"expected a tensor, several, or .logits of the model, got {type(output).__name__}"
    )
