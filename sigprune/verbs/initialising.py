"""Re-initialisation: every weight from one initialiser, gates opened, norms and biases reset."""

from __future__ import annotations

from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sigprune.base.errors import UnknownName
from sigprune.base.family import Choice, Step
from sigprune.base.seeds import generator
from sigprune.families.inits import Init, inits
from sigprune.values.slot import Slot
from sigprune.values.view import Reason, View, expect_view
from sigprune.values.weight import Weight

GatePolicy = Literal["open", "keep"]

TABLE_STD = 0.02
"""Standard deviation of re-drawn embeddings, position tables and tokens: BERT's and ViT's own choice."""

_CONSTANTS: dict[Reason, float] = {"bias": 0.0, "norm shift": 0.0, "norm scale": 1.0}


def reinit_(
    view: View,
    init: str | Step | ModuleType | None = "orthogonal",
    *,
    seed: int = 0,
    gates: GatePolicy = "open",
) -> tuple[str, ...]:
    """Give the model fresh values, block by block, in place.

    Weights get the initialiser's values in every block (each of q, k, v; each convolution group; each
    expert). Embeddings, position tables and tokens are drawn from N(0, 0.02²). Biases and norm shifts become
    0, norm scales 1, BatchNorm statistics fresh, the norms of
    weight normalisation those of the new values. What is skipped as a vector or for another reason keeps its
    value. Gates become 1 if ``gates`` is ``open``: behind a gate at 0 every weight has a zero gradient, and a
    score could not tell one from another.

    Args:
        view: the network.
        init: an initialiser; None keeps every value and only opens gates that hold one constant of at most
            0.1 in size, as at construction (a trained gate is never touched).
        seed: equal seeds give equal values, on every device.
        gates: ``open`` or ``keep``.

    Returns:
        The names of the gates that were opened.

    Raises:
        UnknownName: there is no such initialiser or gate policy.

    Example:
        >>> from sigprune import describe, reinit_
        >>> view = describe(torch.nn.Linear(4, 4))
        >>> _ = reinit_(view, "orthogonal", seed=0)
        >>> bool(torch.allclose(view.module.weight @ view.module.weight.T, torch.eye(4), atol=1e-6))
        True
    """
    expect_view(view)
    if gates not in get_args(GatePolicy):
        raise UnknownName("gate policy", gates, get_args(GatePolicy))
    params = view.params()
    with torch.no_grad():
        if init is not None:
            choice = inits.choose(init)
            for weight in view.weights:
                if weight.role == "embedding":
                    _table_(params[weight.name], seed, weight.name)
                else:
                    _fill_(weight, params[weight.name], choice, seed)
                if weight.magnitude is not None:
                    _scale_(params[weight.magnitude], params[weight.name])
            _reset_(view, params, seed)
        return _open_(view, params, constant_only=init is None) if gates == "open" else ()


def _fill_(weight: Weight, tensor: Tensor, choice: Choice[Init], seed: int) -> None:
    for index, block in enumerate(weight.layout.blocks(tensor)):
        slot = Slot(tuple(block.shape), weight.role, generator(seed, "init", f"{weight.name}[{index}]"))
        block.copy_(choice.member.init(slot, **choice.options))


def _scale_(magnitude: Tensor, direction: Tensor) -> None:
    """With the norms of the direction itself, weight normalisation gives the direction as it is."""
    axes = [axis for axis, size in enumerate(magnitude.shape) if size == 1]
    magnitude.copy_(torch.linalg.vector_norm(direction, dim=axes, keepdim=True))


def _table_(tensor: Tensor, seed: int, name: str) -> None:
    draws = torch.randn(tensor.shape, generator=generator(seed, "init", name), dtype=torch.float64)
    tensor.copy_(TABLE_STD * draws)


def _reset_(view: View, params: dict[str, Tensor], seed: int) -> None:
    for name, reason in view.skipped.items():
        if reason in _CONSTANTS:
            params[name].fill_(_CONSTANTS[reason])
        elif reason in {"position table", "token"}:
            _table_(params[name], seed, name)
    for module in view.module.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()


def _open_(view: View, params: dict[str, Tensor], *, constant_only: bool) -> tuple[str, ...]:
    opened = []
    for gate in view.gates:
        tensor = params[gate.name]
        constant = bool((tensor == tensor.reshape(-1)[0]).all()) and float(tensor.abs().max()) <= 0.1
        if constant or not constant_only:
            tensor.fill_(1.0)
            opened.append(gate.name)
    return tuple(opened)
