"""Holding: a mask stays in force while an optimizer trains the model, which is never wrapped."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from sigprune.base.errors import BadInput
from sigprune.base.tensors import is_sharded, number, placed_like
from sigprune.pruning.selector import expect_no_empty_filter
from sigprune.values.mask import Mask
from sigprune.values.view import View, expect_view


@contextmanager
def hold(view: View, mask: Mask, optimizer: Optimizer) -> Iterator[None]:
    """Keep every removed entry at exactly zero while the optimizer trains.

    On entry the removed entries of the weights, of the gradients and of the optimizer's state become zero.
    Inside, a hook on every masked parameter (frozen ones too: they may be unfrozen) sets the gradients of
    removed entries to zero as soon as they are complete, so that accumulation, unscaling, clipping and the
    optimizer's statistics never see them (infinity and NaN included). Hooks on the steps of all optimizers
    that hold masked weights, not only of the one given, mask gradients that were set by hand before a step
    and set the removed weights to zero after it. Parameters that are replaced inside
    (``load_state_dict(assign=True)``, ``fully_shard``) are followed by name from the next step on. On exit
    the weights that the model has then are checked and all hooks are gone; an exception from inside passes
    through unchanged.

    Args:
        view: the model; train it as you like, its parameters stay the same objects. They may be sharded
            (``fully_shard``), before or inside; then every process holds.
        mask: what is kept, by the names of the view (a tied name will do).
        optimizer: any torch optimizer (for-loop, foreach, fused), or one prepared by Accelerate.

    Cost: one pass over the masked weights per backward pass and two per step; one byte per entry of them on
    the parameters' device.

    Raises:
        BadInput: the mask does not fit the model, or the optimizer holds none of the masked weights.
        MaskViolated: on exit, a removed entry is not zero (somebody wrote to it after the last step).

    Warns:
        UnmaskedGradient: a gradient was set by hand, not by a backward pass, and is not zero where the mask
            removes: the step does not see that, but what came before it, such as clipping by norm, did.

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
    expect_view(view, sharded=True)
    expect_no_empty_filter(view, mask)
    raw = _unwrapped(optimizer)
    params = dict(view.module.named_parameters(remove_duplicate=False))
    held = [_Held(view.module, name, pruned) for name, pruned in _removed(mask, params).items()]
    _check_optimizer(raw, [params[one.name] for one in held])
    holding = _Holding(held, raw)
    try:
        for one in held:
            one.follow_()
            one.zero_state_(raw)
        holding.start()
        yield
        mask.check(dict(view.module.named_parameters(remove_duplicate=False)))
    finally:
        holding.stop()


class UnmaskedGradient(UserWarning):
    """A gradient of a held weight was set by hand and not masked, so that clipping by norm saw all of it."""


@dataclass(eq=False)
class _Held:
    """One masked tensor.

    Attributes:
        module: the model.
        name: of the parameter.
        gone: True where an entry was removed, placed as the parameter is.
        parameter: the one that has the hook; the model may have replaced it since.
        handle: of the hook.
        seen: the gradient that the hook has masked.
    """

    module: nn.Module
    name: str
    pruned: Tensor
    parameter: nn.Parameter | None = None
    handle: RemovableHandle | None = None
    seen: weakref.ref[Tensor] | None = None

    def follow_(self) -> nn.Parameter:
        """The parameter that the model has now, zero where the mask removes, with the hook on it.

        Raises:
            BadInput: it is gone, or has another shape.
        """
        path, _, local = self.name.rpartition(".")
        parameter = self.module.get_submodule(path)._parameters.get(local)
        if parameter is None or parameter.shape != self.pruned.shape:
            got = "removed" if parameter is None else f"replaced by one of shape {tuple(parameter.shape)}"
            raise BadInput(f"{self.name}: inside hold(...) the parameter was {got}")
        if parameter is not self.parameter:
            self.release()
            if not is_sharded(self.pruned):
                self.pruned = placed_like(self.pruned, parameter)
            self.parameter = parameter
            self._hook_(parameter)
        elif self.pruned.device != parameter.device:  # module.to(device) keeps the object
            self.pruned = self.pruned.to(parameter.device)
        return parameter

    def _hook_(self, parameter: nn.Parameter) -> None:
        trains = parameter.requires_grad
        if not (parameter.is_floating_point() or parameter.is_complex()):
            return
        parameter.requires_grad = True  # torch takes no hook otherwise, and keeps it while it is frozen
        self.handle = parameter.register_post_accumulate_grad_hook(self._zero_gradient_)
        parameter.requires_grad = trains

    def _zero_gradient_(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        # Sparse gradients (sparse embeddings) have no masked_fill_; the hook on the step makes up for it.
        if gradient is not None and not gradient.is_sparse:
            gradient.masked_fill_(self.pruned.to(gradient.device), 0.0)
            self.seen = weakref.ref(gradient)

    def mask_gradient_(self, parameter: Tensor) -> bool:
        """Once more before a step; whether a gradient that no backward pass made was not masked."""
        gradient = parameter.grad
        if gradient is None or gradient.is_sparse:
            return False
        known = self.seen is not None and self.seen() is gradient
        unmasked = not known and number((gradient != 0).logical_and(self.pruned).sum()) > 0
        with torch.no_grad():
            self._zero_gradient_(parameter)
        return unmasked

    def zero_state_(self, optimizer: Optimizer) -> None:
        """Zero the removed entries of the weight, of its gradient, and of every state tensor of its shape."""
        parameter = self.follow_()
        state = optimizer.state[parameter].values() if parameter in optimizer.state else ()
        shaped = [t for t in state if isinstance(t, Tensor) and t.shape == parameter.shape]
        with torch.no_grad():
            for tensor in (parameter, parameter.grad, *shaped):
                if tensor is not None and not tensor.is_sparse:
                    tensor.masked_fill_(self.pruned.to(tensor.device), 0.0)

    def zero_weight_(self, parameter: nn.Parameter) -> None:
        with torch.no_grad():
            parameter.masked_fill_(self.pruned, 0.0)

    def release(self) -> None:
        if self.handle is not None:
            self.handle.remove()
        self.handle = None


@dataclass(eq=False)
class _Holding:
    """What is held, and the hooks on the steps of optimizers: on all, since any may hold the same weights.

    Attributes:
        held: the masked tensors.
        given: the optimizer that hold() was given; its steps zero all of them.
        known: optimizers whose state is zero where the mask removes.
        warned: whether an unmasked gradient was named.
        handles: of the hooks.
    """

    held: Sequence[_Held]
    given: Optimizer
    known: list[Optimizer] = field(default_factory=list)
    warned: bool = False
    handles: list[RemovableHandle] = field(default_factory=list)

    def start(self) -> None:
        self.known.append(self.given)
        self.handles.append(register_optimizer_step_pre_hook(self._before))
        self.handles.append(register_optimizer_step_post_hook(self._after))

    def stop(self) -> None:
        for handle in self.handles:
            handle.remove()
        for one in self.held:
            one.release()

    def _of(self, optimizer: Optimizer) -> list[tuple[_Held, nn.Parameter]]:
        """What an optimizer answers for (the given one for all), and the parameters as they are now."""
        followed = [(one, one.follow_()) for one in self.held]
        if optimizer is self.given:
            return followed
        ids = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return [(one, parameter) for one, parameter in followed if id(parameter) in ids]

    def _before(self, optimizer: Optimizer, *_: object) -> None:
        mine = self._of(optimizer)
        for one, parameter in mine:
            if one.mask_gradient_(parameter) and not self.warned:
                self.warned = True
                warnings.warn(
                    f"{one.name}: its gradient was set by hand (or the parameter replaced before it came) "
                    "and is not zero where the mask removes. The step does not see that, but clipping by "
                    "norm before it does: mask gradients first: mask.apply_({name: p.grad for name, p in "
                    "model.named_parameters()})",
                    UnmaskedGradient,
                    stacklevel=2,
                )
        if mine and not any(optimizer is other for other in self.known):
            self.known.append(optimizer)
            for one, _parameter in mine:
                one.zero_state_(optimizer)

    def _after(self, optimizer: Optimizer, *_: object) -> None:
        for one, parameter in self._of(optimizer):
            one.zero_weight_(parameter)


def _unwrapped(optimizer: Optimizer) -> Optimizer:
    """The innermost optimizer: Accelerate's wrapper holds no state of its own."""
    inner = vars(optimizer).get("optimizer")
    return _unwrapped(inner) if isinstance(inner, Optimizer) else optimizer


def _removed(mask: Mask, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name -> True where an entry was removed; weights kept whole are left out."""
    removed = {}
    for name, keep in mask.keep.items():
        if name not in params or params[name].shape != keep.shape:
            got = f"shape {tuple(params[name].shape)}" if name in params else "no such parameter"
            raise BadInput(
                f"{name}: the mask expects shape {tuple(keep.shape)}, the model has {got}; "
                "hold a mask together with the view that it was made for"
            )
        if not bool(keep.all()):
            removed[name] = ~keep
    return removed


def _check_optimizer(optimizer: Optimizer, masked: Sequence[Tensor]) -> None:
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if masked and not any(id(p) in held for p in masked):
        raise BadInput(
            f"the {type(optimizer).__name__} given to hold() holds none of the {len(masked)} masked weights; "
            "make it from the parameters of the same model, for example SGD(model.parameters(), lr=0.1)"
        )
