"""Re-initialisation: every weight from one initialiser, gates opened, norms and biases reset."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sigprune.base.registry import BoundMember
from sigprune.base.rng import generator
from sigprune.base.tensors import Tensors
from sigprune.families.inits import Init
from sigprune.init.policy import Chosen, GatePolicy, InitPolicy, Treatment, treatments
from sigprune.values.block_spec import BlockSpec
from sigprune.values.origin import remember_origin_, same_origin
from sigprune.values.view import View, expect_no_parametrised, expect_view
from sigprune.values.weight import Weight


def reinit_(
    view: View,
    init: Chosen = "orthogonal",
    *,
    seed: int = 0,
    gates: GatePolicy = "open",
    policy: InitPolicy | None = None,
) -> tuple[str, ...]:
    """Give the model fresh values, block by block, in place.

    Weights get the initialiser's values in every block (each of q, k, v; each convolution group; each
    expert), so that what the forward pass uses is orthogonal: a standardised weight gets rows that
    standardisation only scales, weight normalisation the norms of the new values. Embeddings, position tables
    and tokens are drawn from N(0, 0.02²); rows of padding (``padding_idx``) are zero, and no row is longer
    than its module allows (``max_norm``). Biases and norm shifts become 0, norm scales 1, BatchNorm
    statistics fresh. Fixed tables, and what is skipped as a vector or for another reason, keep their values.
    The weights' origin is ``fresh`` then (what a view may prune was settled when it was made). Gates become 1
    if ``gates`` is ``open``: behind a gate at 0 every weight has a zero gradient, and a score could not tell
    one from another.

    Args:
        view: the network.
        init: an initialiser; None keeps every value and only opens gates that hold one constant of at most
            0.1 in size, as at construction (a trained gate is never touched).
        seed: equal seeds give equal values, on every device.
        gates: ``open`` or ``keep``.
        policy: other choices for depthwise kernels, embeddings, heads and norms.

    Returns:
        The names of the gates that were opened.

    Raises:
        UnknownName: there is no such initialiser, gate policy or norm policy.
        BadInput: values are on the meta device, or behind a parametrisation that is not known.

    Example:
        >>> from sigprune import describe, reinit_
        >>> view = describe(torch.nn.Linear(4, 4))
        >>> _ = reinit_(view, "orthogonal", seed=0)
        >>> bool(torch.allclose(view.module.weight @ view.module.weight.T, torch.eye(4), atol=1e-6))
        True
    """
    expect_view(view)
    if init is not None:
        expect_no_parametrised(view)
    plan = {one.part: one for one in treatments(view, init, gates, policy)}
    params = view.params()
    opened: tuple[str, ...] = ()
    with torch.no_grad(), same_origin(view.module):
        for treatment in plan.values():
            if treatment.choice is not None:
                _draw_(view, params, treatment, treatment.choice, seed)
        if "biases" in plan:
            _constant_(params, plan["biases"].names, 0.0)
        if not plan["norms"].kept:
            _reset_norms_(view, params, plan["norms"])
        if "gates" in plan and not plan["gates"].kept:
            opened = _open_(view, params, constant_only=init is None)
    if init is not None:
        remember_origin_(view.module, "fresh")
    return opened


def _draw_(view: View, params: Tensors, treatment: Treatment, choice: BoundMember[Init], seed: int) -> None:
    weights = {weight.name: weight for weight in view.weights}
    for name in treatment.names:
        if name in weights and treatment.part != "embeddings":
            _fill_(weights[name], params, choice, seed)
        else:
            tensor = params[name]
            shape = (math.prod(tensor.shape[:-1]), math.prod(tensor.shape[-1:]))  # rows of features
            spec = BlockSpec(shape, "embedding", generator(seed, "init", name))
            tensor.copy_(choice.member.init(spec, **choice.options).reshape(tensor.shape))
            if name in weights:
                _constrain_(weights[name], tensor)


def _constrain_(table: Weight, tensor: Tensor) -> None:
    """As the modules of a look-up table have it: rows of padding are zero, no row is too long."""
    for row in table.padding:
        tensor[row] = 0
    if table.longest is not None:
        norm, kind = table.longest
        # a little less: what rounding leaves longer, the module would change when it looks it up
        tensor.copy_(tensor.renorm(kind, 0, norm * (1 - 1e-6)))


def _fill_(weight: Weight, params: Tensors, choice: BoundMember[Init], seed: int) -> None:
    standardised = weight.standardised is not None
    for index, block in enumerate(weight.layout.blocks(params[weight.name])):
        stream = generator(seed, "init", f"{weight.name}[{index}]")
        spec = BlockSpec(tuple(block.shape), weight.role, stream, standardised)
        block.copy_(choice.member.init(spec, **choice.options))
    if weight.magnitude is not None:
        _scale_(params[weight.magnitude], params[weight.name])


def _scale_(magnitude: Tensor, direction: Tensor) -> None:
    """With the norms of the direction itself, weight normalisation gives the direction as it is."""
    axes = [axis for axis, size in enumerate(magnitude.shape) if size == 1]
    magnitude.copy_(torch.linalg.vector_norm(direction, dim=axes, keepdim=True))


def _constant_(params: Tensors, names: tuple[str, ...], value: float) -> None:
    for name in names:
        params[name].fill_(value)


def _reset_norms_(view: View, params: Tensors, treatment: Treatment) -> None:
    for name in treatment.names:
        params[name].fill_(1.0 if view.skipped[name] == "norm scale" else 0.0)
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
