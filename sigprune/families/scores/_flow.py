"""The flow of SynFlow: a mode in which activations with bounds, and norms, are as linear as in its theory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class Linearised(TorchFunctionMode):
    """Inside, a positive flow stays positive and is stopped by no bound.

    ReLU6 and hardtanh have no upper bound: the flow of absolute weights would meet it in every layer, and
    nothing behind would depend on a weight. Gates (hardsigmoid, and sigmoid of pooled channels, as in
    squeeze-and-excitation) keep their value and pass derivatives on with their slope at zero. Layer and group
    norms divide by the root mean square of what they are given, held fixed, and subtract no mean: like that
    of BatchNorm, it counts as absolute. A mean that is subtracted leaves nothing of an all-ones input, and
    makes the sum of a normalised output a constant.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        rule = _RULES.get(getattr(func, "__name__", "").rstrip("_"), func)
        return rule(*args, **(kwargs or {}))


def _relu6(input: Tensor, inplace: bool = False) -> Tensor:
    del inplace
    return functional.relu(input)


def _hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    del max_val, inplace
    return input.clamp(min=min_val)


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    del inplace
    value = input.detach()
    return functional.hardsigmoid(value) + (input - value) / 6


def _sigmoid(input: Tensor) -> Tensor:
    if input.dim() != 4 or input.shape[2:] != (1, 1):  # x · sigmoid(x) is an activation, and no gate
        return torch.sigmoid(input)
    value = input.detach()
    return value.sigmoid() + (input - value) / 4


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_kernel: object,
    **_named: object,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    return _scaled(_divided(input, axes, eps), weight, bias)


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_kernel: object,
    **_named: object,
) -> Tensor:
    groups = _divided(input.reshape(len(input), num_groups, -1), (-1,), eps).reshape(input.shape)
    channels = (-1, *(1 for _ in input.shape[2:]))
    scale, shift = (None if t is None else t.reshape(channels) for t in (weight, bias))
    return _scaled(groups, scale, shift)


def _divided(values: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    return values / values.detach().square().mean(axes, keepdim=True).add(eps).sqrt()


def _scaled(values: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    values = values if scale is None else values * scale
    return values if shift is None else values + shift


_RULES: Mapping[str, Callable[..., object]] = {
    "relu6": _relu6,
    "hardtanh": _hardtanh,
    "hardsigmoid": _hardsigmoid,
    "sigmoid": _sigmoid,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
}
