"""Paths: a mode in which forward derivatives follow every connection of a network, and no value hides one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

T = TypeVar("T")
Arguments = tuple[tuple[object, ...], Mapping[str, object]]

_ENTRYWISE = frozenset({
    "celu", "clamp", "clamp_max", "clamp_min", "clip", "elu", "erf", "gelu", "hardshrink", "hardsigmoid",
    "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish", "prelu", "relu", "relu6", "rrelu", "selu",
    "sigmoid", "silu", "softplus", "softshrink", "softsign", "tanh", "tanhshrink", "threshold",
})  # fmt: skip
"""Functions of one entry: their derivative is 1 here, so that no unit is dead or saturated."""


class Paths(TorchFunctionMode):
    """While it is on, a tangent is a sum over paths, and only tangents depend on parameters.

    Functions of one entry pass the tangent on as it is, and maximum pooling averages it over its window, as
    any entry of it may win. Everything else keeps its own derivative, at whatever values the network has.
    Values that carry a tangent are cut off from the parameters that made them: the derivative of an output
    tangent with respect to a weight then runs through the connections that the weight makes, and not through
    its effect on the point at which others are linearised.

    Use it inside :func:`torch.autograd.forward_ad.dual_level`.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Called by torch for each of its functions."""
        del types
        name = getattr(func, "__name__", "").rstrip("_")
        if name in _REPLACED:
            return _cut_off(_REPLACED[name](*args, **(kwargs or {})))
        rule = _RULES.get(name)
        if rule is not None and args and isinstance(args[0], Tensor):
            value, tangent = forward_ad.unpack_dual(args[0])
            if tangent is not None:
                others = (args[1:], {k: v for k, v in (kwargs or {}).items() if k != "inplace"})
                moved = rule(tangent, others)
                plain = func(value.detach().clone(), *others[0], **others[1])
                if moved is not None and isinstance(plain, Tensor):
                    return forward_ad.make_dual(plain.detach(), moved)
        return _cut_off(func(*args, **(kwargs or {})))


def _cut_off(result: T) -> T:
    """The same, values that carry a tangent no longer depending on parameters."""
    if isinstance(result, tuple | list):
        parts = [_cut_off(part) for part in result]
        same = all(new is old for new, old in zip(parts, result, strict=True))
        return result if same else cast("T", tuple(parts) if isinstance(result, tuple) else parts)
    if not isinstance(result, Tensor) or not result.is_floating_point() or not result.requires_grad:
        return result
    value, tangent = forward_ad.unpack_dual(result)
    return result if tangent is None else cast("T", forward_ad.make_dual(value.detach(), tangent))


def _attend(  # noqa: PLR0917, the order is torch's
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(Q Kᵀ scale + mask) V: torch's own has no forward-mode derivative that can be differentiated."""
    del dropout_p  # of training
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return _softmax(scores, -1) @ value


def _softmax(input: Tensor, dim: int = -1, *_how: object, **_more: object) -> Tensor:
    """Torch's forward-mode derivative of it cannot always be differentiated."""
    value, tangent = forward_ad.unpack_dual(input)
    shares: Tensor = value.softmax(dim)
    if tangent is None:
        return shares
    moved = shares * (tangent - (shares * tangent).sum(dim, keepdim=True))
    return cast("Tensor", forward_ad.make_dual(shares.detach(), moved))


def _attend_with_heads(
    query: Tensor, key: Tensor, value: Tensor, _width: int, heads: int, *fixed: object, **named: object
) -> object:
    """The inside of ``nn.MultiheadAttention``, (length, examples, width); torch's own hides its steps."""
    given = dict(zip(_FIXED, fixed, strict=False)) | named
    fixed_keys = any(given.get(name) is not None for name in ("bias_k", "static_k", "static_v"))
    if fixed_keys or given.get("add_zero_attn") or query.dim() == 2:
        raise NotImplementedError("attention with keys of its own, or without examples")
    joint, shift = cast("Tensor | None", given["in_proj_weight"]), given.get("in_proj_bias")
    separate = [given.get(f"{side}_proj_weight") for side in "qkv"]
    matrices = separate if joint is None else list(joint.chunk(3))
    shifts = [None] * 3 if shift is None else list(cast("Tensor", shift).chunk(3))
    parts = []
    for x, matrix, bias in zip((query, key, value), matrices, shifts, strict=True):
        y = _cut_off(F.linear(x, cast("Tensor", matrix), bias))
        parts.append(y.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3))
    mask, padding = (cast("Tensor | None", given.get(k)) for k in ("attn_mask", "key_padding_mask"))
    total = sum(
        _additive(m)
        for m in (_by_head(mask, heads), None if padding is None else padding[:, None, None])
        if m is not None
    )
    mixed = _attend(parts[0], parts[1], parts[2], total if isinstance(total, Tensor) else None)
    joined = mixed.permute(2, 0, 1, 3).flatten(2)
    out, bias = (cast("Tensor", given[name]) for name in ("out_proj_weight", "out_proj_bias"))
    return _cut_off(F.linear(joined, out, bias)), None


_FIXED = (
    "in_proj_weight", "in_proj_bias", "bias_k", "bias_v", "add_zero_attn", "dropout_p", "out_proj_weight",
    "out_proj_bias",
)  # fmt: skip
"""What stands at fixed places after the number of heads."""


def _by_head(mask: Tensor | None, heads: int) -> Tensor | None:
    """A mask per example and head comes with both on one axis."""
    return mask.unflatten(0, (-1, heads)) if mask is not None and mask.dim() == 3 else mask


def _additive(mask: Tensor) -> Tensor:
    """True in a mask of this function forbids."""
    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=torch.float64, device=mask.device).masked_fill(mask, -torch.inf)


def _multiply_groups(rows: Tensor, matrices: Tensor, *, offs: Tensor, **_more: object) -> Tensor:
    """Each group of rows with its own matrix; ``offs`` are the ends of the groups."""
    ends = offs.tolist()
    starts = [0, *ends[:-1]]
    return torch.cat([rows[a:b] @ m for a, b, m in zip(starts, ends, matrices, strict=True)])


_REPLACED: Mapping[str, Callable[..., object]] = {
    "_grouped_mm": _multiply_groups,
    "grouped_mm": _multiply_groups,
    "multi_head_attention_forward": _attend_with_heads,
    "scaled_dot_product_attention": _attend,
    "softmax": _softmax,
}


def _same(tangent: Tensor, _others: Arguments) -> Tensor:
    return tangent


def _pooled(tangent: Tensor, others: Arguments) -> Tensor | None:
    """Over the same windows; None (the tangent of the winner) where they have gaps."""
    given: dict[str, object] = dict(zip(_POOLING, others[0], strict=False)) | dict(others[1])
    if given.pop("dilation", 1) not in {1, (1,), (1, 1), (1, 1, 1)} or given.pop("return_indices", False):
        return None
    pool = {2: F.avg_pool1d, 3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}[tangent.dim()]
    averaged: Tensor = pool(tangent, **given)  # type: ignore[arg-type]
    return averaged


_POOLING = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")


def _pooled_to(tangent: Tensor, others: Arguments) -> Tensor | None:
    size, *more = (*others[0], *others[1].values())
    if any(more):
        return None
    pool = {3: F.adaptive_avg_pool1d, 4: F.adaptive_avg_pool2d, 5: F.adaptive_avg_pool3d}[tangent.dim()]
    averaged: Tensor = pool(tangent, cast("int", size))
    return averaged


def _reduced(tangent: Tensor, others: Arguments) -> Tensor:
    return torch.mean(tangent, *others[0], **others[1])  # type: ignore[call-overload, no-any-return]


_RULES: Mapping[str, Callable[[Tensor, Arguments], Tensor | None]] = {
    **dict.fromkeys(_ENTRYWISE, _same),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), _pooled),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"), _pooled_to),
    "amax": _reduced,
}
