"""Watches the functions of torch that multiply weights with inputs, while a network runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sigprune.families.scores._recurrent import LAYERED, layered
from sigprune.families.scores._uses import Function, Uses, run, squared, sums_by_gradient

Given = dict[str, object]
Watch = Callable[[Uses, Function, Sequence[object], Given], object]


class Watching(TorchFunctionMode):
    """Inside, every use of a leaf is added to ``uses``; activations carry no gradient.

    A function that is watched gets its weights detached, so that only weights (and what is made of them)
    require a gradient: that tells them from activations. Whatever else is done with a weight leaves a trace
    in what comes out, and is refused where it is used next.
    """

    def __init__(self, uses: Uses) -> None:
        super().__init__()
        self.uses = uses

    def __torch_function__(
        self,
        func: Function,
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        named = dict(kwargs or {})
        watch = _WATCHED.get(func.__name__)
        if watch is None or not any(self.uses.owns(t) for t in _tensors((*args, *named.values()))):
            return func(*args, **named)
        return watch(self.uses, func, args, named)


def _tensors(parts: Sequence[object]) -> Iterator[Tensor]:
    for part in parts:
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, list | tuple):
            yield from _tensors(part)


def _named(names: str, args: Sequence[object], kwargs: Given) -> Given:
    return {**dict(zip(names.split(), args, strict=False)), **kwargs}


def _output(func: Function, args: Sequence[object], kwargs: Given) -> Tensor:
    return cast("Tensor", run(func, args, kwargs))


def _bias(uses: Uses, bias: object, out: Tensor) -> None:
    """A bias has the constant input 1, at every place of the output."""
    if isinstance(bias, Tensor):
        uses.add_ones(bias, out.numel() / max(bias.numel(), 1))


def _linear(uses: Uses, func: Function, args: Sequence[object], kwargs: Given) -> object:
    given = _named("input weight bias", args, kwargs)
    out = _output(func, args, kwargs)
    uses.add_inputs(uses.activation(given["input"]), given["weight"])
    _bias(uses, given.get("bias"), out)
    return out


def _convolution(uses: Uses, func: Function, args: Sequence[object], kwargs: Given) -> object:
    transposed = func.__name__.startswith("conv_transpose")
    order = "output_padding groups dilation" if transposed else "dilation groups"
    given = _named(f"input weight bias stride padding {order}", args, kwargs)
    out = _output(func, args, kwargs)
    squares, weight = squared(uses.activation(given["input"])), cast("Tensor", given["weight"])
    if uses.owns(weight):
        if squares.dim() == weight.dim():  # every example meets the same taps: one sum over them will do
            squares = squares.sum(0, keepdim=True)
        groups = cast("int", given.get("groups", 1))
        shape = (len(weight), 1) if transposed else (groups, weight.shape[1])
        like = torch.empty(*shape, *weight.shape[2:], dtype=squares.dtype, device=squares.device)
        rest = {k: v for k, v in given.items() if k not in {"input", "weight", "bias"}}
        # one output per group: all outputs of a group meet the same inputs
        sums = sums_by_gradient(lambda kernel: cast("Tensor", func(squares, kernel, None, **rest)), like)
        if not transposed and groups > 1:
            sums = sums.repeat_interleave(len(weight) // groups, 0)
        uses.add(weight, sums)
    _bias(uses, given.get("bias"), out)
    return out


def _product(uses: Uses, func: Function, args: Sequence[object], kwargs: Given) -> object:
    left, right = _operands(args, kwargs)
    if func.__name__ == "__rmatmul__":
        left, right = right, left
    out = _output(func, args, kwargs)
    _multiply(uses, left, right)
    return out


def _operands(args: Sequence[object], kwargs: Given) -> tuple[Tensor, Tensor]:
    keys = ("input", "self", "mat2", "other", "tensor2")
    first, second, *_ = (*args, *(kwargs[key] for key in keys if key in kwargs))
    return cast("Tensor", first), cast("Tensor", second)


def _multiply(uses: Uses, left: Tensor, right: Tensor) -> None:
    """Squares for ``left @ right``, of which one is a weight: one column (or row) of it meets them all."""
    if uses.owns(right):
        squares = squared(uses.activation(left))
        like = right.detach()[..., :1] if right.dim() > 1 else right.detach()
        uses.add(right, sums_by_gradient(lambda w: squares @ w, like.to(squares.dtype)))
    else:
        squares = squared(uses.activation(right))
        like = left.detach()[..., :1, :] if left.dim() > 1 else left.detach()
        uses.add(left, sums_by_gradient(lambda w: w @ squares, like.to(squares.dtype)))


def _product_and_sum(uses: Uses, func: Function, args: Sequence[object], kwargs: Given) -> object:
    second = "mat2" if func.__name__ == "addmm" else "batch2"
    given = _named(f"input {second.replace('2', '1')} {second}", args, kwargs)
    left, right = (cast("Tensor", given[key]) for key in (second.replace("2", "1"), second))
    weight = right if uses.owns(right) else left
    if given.get("beta", 1) != 1 or given.get("alpha", 1) != 1:
        uses.unsupported(weight, f"is scaled by {func.__name__}")
    out = _output(func, args, kwargs)
    if uses.owns(weight):
        _multiply(uses, left, right)
    _bias(uses, given["input"], out)
    return out


def _grouped_product(uses: Uses, func: Function, args: Sequence[object], kwargs: Given) -> object:
    """Rows (n, in) of which those up to each offset meet the next matrix of (groups, in, out)."""
    given = _named("input weight offs", args, kwargs)
    inputs = uses.activation(given.get("input", given.get("self")))
    weight, ends = cast("Tensor", given.get("weight", given.get("mat2"))), cast("Tensor", given["offs"])
    out = _output(func, args, kwargs)
    if inputs.dim() != 2 or weight.dim() != 3:
        uses.unsupported(weight, f"has {weight.dim()} axes for inputs of {inputs.dim()} in {func.__name__}")
    places = torch.arange(len(inputs), device=ends.device)
    group = torch.bucketize(places, ends.to(places.dtype), right=True)
    squares = squared(inputs)[group < len(ends)]  # rows after the last offset meet no matrix
    sums = squares.new_zeros(len(weight), inputs.shape[1]).index_add_(0, group[group < len(ends)], squares)
    uses.add(weight, sums[:, :, None])
    return out


def _einsum(uses: Uses, func: Function, args: Sequence[object], kwargs: Given) -> object:
    equation, *rest = args
    flat = list(rest[0]) if len(rest) == 1 and isinstance(rest[0], list | tuple) else rest
    tensors = [cast("Tensor", t) for t in flat]
    watched = [index for index, t in enumerate(tensors) if uses.owns(t)]
    if len(tensors) != 2 or len(watched) != 1 or not isinstance(equation, str):
        uses.unsupported(
            tensors[watched[0]], "is multiplied with more than one tensor, or another weight, by einsum"
        )
    weight, squares = tensors[watched[0]], squared(tensors[1 - watched[0]])

    def apply(probe: Tensor) -> Tensor:
        pair = (probe, squares) if watched[0] == 0 else (squares, probe)
        return cast("Tensor", func(equation, *pair))

    out = _output(func, (equation, *tensors), kwargs)
    uses.add(weight, sums_by_gradient(apply, weight.detach().to(squares.dtype)))
    return out


def _embedding(uses: Uses, func: Function, args: Sequence[object], kwargs: Given) -> object:
    """The input of a table of embeddings is one-hot: its squares count how often each row was looked up."""
    ids, weight = sorted(_tensors((*args, *kwargs.values())), key=Tensor.is_floating_point)[:2]
    out = _output(func, args, kwargs)
    counts = torch.bincount(ids.reshape(-1), minlength=len(weight))
    uses.add(weight, counts[:, None].to(torch.float32))
    return out


def _attention(uses: Uses, func: Function, args: Sequence[object], kwargs: Given) -> object:
    """Projections of queries, keys and values, then heads; the output projection is taken apart."""
    given: Given = dict(inspect.signature(func).bind(*args, **kwargs).arguments)
    weight, bias = cast("Tensor", given["out_proj_weight"]), given["out_proj_bias"]
    inputs = [uses.activation(given[key]) for key in ("query", "key", "value")]
    if given.get("use_separate_proj_weight"):
        parts = [given[f"{key}_proj_weight"] for key in "qkv"]
    else:
        parts = list(cast("Tensor", given["in_proj_weight"]).chunk(3))
    shifts = given["in_proj_bias"]
    shifts = shifts.chunk(3) if isinstance(shifts, Tensor) else (None, None, None)
    for x, part, shift in zip(inputs, parts, shifts, strict=True):
        uses.add_inputs(x, part)
        uses.add_ones(shift, x.numel() / x.shape[-1])
    identity = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    apart = {**given, "out_proj_weight": identity, "out_proj_bias": None}
    heads, shares = cast("tuple[Tensor, Tensor | None]", run(func, (), apart))
    return _linear(uses, functional.linear, (heads, weight, bias), {}), shares


def _sum(uses: Uses, func: Function, args: Sequence[object], kwargs: Given) -> object:
    """A bias that is added on its own; any other sum stays as it is."""
    parts = [part for part in args if isinstance(part, Tensor)]
    watched = [part for part in parts if uses.owns(part)]
    if len(parts) == 2 and len(watched) == 1:
        origin = uses.origin(watched[0])
        if origin.moved_only and uses.weights.isdisjoint(origin.names):
            out = _output(func, args, kwargs)
            if out.shape != uses.sums[origin.names[0]].shape:  # else it may be a constant that is added to it
                _bias(uses, watched[0], out)
                return out
    return func(*args, **kwargs)


_WATCHED: Mapping[str, Watch] = {
    "linear": _linear,
    **dict.fromkeys((f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)), _convolution),
    **dict.fromkeys(("matmul", "__matmul__", "__rmatmul__", "mm", "bmm"), _product),
    **dict.fromkeys(("addmm", "baddbmm"), _product_and_sum),
    **dict.fromkeys(("grouped_mm", "_grouped_mm", "grouped_mm_fallback"), _grouped_product),
    "einsum": _einsum,
    "embedding": _embedding,
    "multi_head_attention_forward": _attention,
    **dict.fromkeys(("add", "add_", "__add__", "__radd__", "__iadd__"), _sum),
    **dict.fromkeys(LAYERED, layered),
}
