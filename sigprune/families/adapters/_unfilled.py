"""Building a model whose values are loaded afterwards, without drawing them first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn
from torch.overrides import TorchFunctionMode

_DRAWING = frozenset({
    "add_",
    "clamp_",
    "erfinv_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "mul_",
    "normal_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
})
"""What fills a parameter with random values: the functions of ``torch.nn.init``, and the steps they take."""


class _Undrawn(TorchFunctionMode):
    """Leaves parameters as they were allocated where a constructor would draw them.

    Buffers, and parameters that are set to constants, are filled as always.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        named = kwargs or {}
        # by name: transformers replaces the functions of torch.nn.init by its own while it builds
        if getattr(func, "__name__", "") in _DRAWING:
            target = args[0] if args else named.get("tensor")
            if isinstance(target, nn.Parameter):
                return target
        return func(*args, **named)


def unfilled(build: Callable[[], nn.Module]) -> nn.Module:
    """The model that ``build`` makes, its random parameters not drawn: most of the time that it takes.

    A model with a parameter that its state dict leaves out is built as always: nothing would fill it.
    """
    with _Undrawn():
        model = build()
    stored = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    return model if all(id(p) in stored for p in model.parameters()) else build()
