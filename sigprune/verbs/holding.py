"""Holding: a mask stays in force while an optimizer trains the model, which is never wrapped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sigprune.base.errors import BadInput
from sigprune.values.mask import Mask
from sigprune.values.view import View, expect_view


@contextmanager
def hold(view: View, mask: Mask, optimizer: Optimizer) -> Iterator[None]:
    """Keep every removed entry at exactly zero while the optimizer trains.

    On entry the removed entries of the weights, of the gradients and of the optimizer's state become zero.
    Inside, a hook on every masked parameter sets the gradients of removed entries to zero as soon as they are
    complete, so that accumulation, unscaling, clipping and the optimizer's statistics never see them
    (infinity and NaN included); a hook on the optimizer sets the removed weights to zero after each step. On
    exit the weights are checked and all hooks are gone; an exception from inside passes through unchanged.

    Args:
        view: the model; train it as you like, its parameters stay the same objects.
        mask: what is kept, by the names of the view (a tied name will do).
        optimizer: any torch optimizer (for-loop, foreach, fused), or one prepared by Accelerate.

    Cost: one pass over the masked weights per backward pass and one per step; one byte per entry of them on
    the parameters' device.

    Raises:
        BadInput: the mask does not fit the model, or the optimizer holds none of the masked weights.
        MaskViolated: on exit, a removed entry is not zero (somebody wrote to it after the last step).

    Example:
        >>> from sigprune import describe, hold, prune
        >>> model = torch.nn.Linear(8, 4)
        >>> view = describe(model)
        >>> mask = prune(view, sparsity=0.75, score="magnitude")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> with hold(view, mask, optimizer):
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         model(torch.randn(5, 8)).square().mean().backward()
        ...         optimizer.step()
        >>> int((model.weight != 0).sum())
        8
    """
    expect_view(view)
    raw = _unwrapped(optimizer)
    params = dict(view.module.named_parameters(remove_duplicate=False))
    masked = [(params[name], gone) for name, gone in _removed(mask, params).items()]
    _check_optimizer(raw, [p for p, _ in masked])
    handles: list[RemovableHandle] = []
    try:
        for parameter, gone in masked:
            _start_(parameter, gone, raw)
            if parameter.requires_grad:
                hook = parameter.register_post_accumulate_grad_hook(_gradient_hook(gone))
                handles.append(hook)
        handles.append(raw.register_step_post_hook(lambda *_: _zero_weights_(masked)))
        yield
        mask.check(params)
    finally:
        for handle in handles:
            handle.remove()


def _unwrapped(optimizer: Optimizer) -> Optimizer:
    """The innermost optimizer: Accelerate's wrapper has no working hooks of its own."""
    inner = vars(optimizer).get("optimizer")
    return _unwrapped(inner) if isinstance(inner, Optimizer) else optimizer


def _removed(mask: Mask, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name -> True where an entry was removed, on the parameter's device; weights kept whole are left out."""
    removed = {}
    for name, keep in mask.keep.items():
        if name not in params or params[name].shape != keep.shape:
            got = f"shape {tuple(params[name].shape)}" if name in params else "no such parameter"
            raise BadInput(
                f"{name}: the mask expects shape {tuple(keep.shape)}, the model has {got}; "
                "hold a mask together with the view that it was made for"
            )
        if not bool(keep.all()):
            removed[name] = ~keep.to(params[name].device)
    return removed


def _check_optimizer(optimizer: Optimizer, masked: Sequence[Tensor]) -> None:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if masked and not any(id(p) in held for p in masked):
        raise BadInput(
            f"the {type(optimizer).__name__} given to hold() holds none of the {len(masked)} masked weights; "
            "make it from the parameters of the same model, for example SGD(model.parameters(), lr=0.1)"
        )


def _start_(parameter: Tensor, gone: Tensor, optimizer: Optimizer) -> None:
    """Zero the removed entries of a weight, of its gradient, and of every state tensor of its shape."""
    state = optimizer.state[parameter].values() if parameter in optimizer.state else ()
    shaped = [t for t in state if isinstance(t, Tensor) and t.shape == parameter.shape]
    with torch.no_grad():
        for tensor in (parameter, parameter.grad, *shaped):
            if tensor is not None and not tensor.is_sparse:
                tensor.masked_fill_(gone, 0.0)


def _gradient_hook(gone: Tensor) -> Callable[[Tensor], None]:
    def zero_gradient_(parameter: Tensor) -> None:
        # Sparse gradients (sparse embeddings) have no masked_fill_; the hook on the step makes up for it.
        if parameter.grad is not None and not parameter.grad.is_sparse:
            parameter.grad.masked_fill_(gone, 0.0)

    return zero_gradient_


def _zero_weights_(masked: Sequence[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for parameter, gone in masked:
            parameter.masked_fill_(gone, 0.0)
