"""Taps: places in a network where a tensor can be read or moved while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sigprune.base.errors import BadInput, UnknownName
from sigprune.values.view import View

INPUT, OUTPUT, FEATURES = "input", "output", "features"


@dataclass(eq=False)
class Tap:
    """What a module gave (or, for a head, was given) while the network ran.

    Attributes:
        place: the name that was asked for.
        calls: how often the module was called.
        value: the first floating-point tensor of the last call.
    """

    place: str
    calls: int = 0
    value: Tensor | None = field(default=None, repr=False)

    def read(self, examples: int) -> Tensor:
        """The tensor; its first axis counts examples.

        Raises:
            BadInput: the module was not called just once, or its tensor counts something else first.
        """
        if self.calls != 1 or self.value is None:
            raise BadInput(
                f"the stage {self.place!r} is called {self.calls} times in a forward pass, expected 1"
            )
        if self.value.dim() < 2 or len(self.value) != examples:
            raise BadInput(
                f"the stage {self.place!r} gives a tensor of shape {tuple(self.value.shape)} for {examples} "
                "examples: its first axis does not count them"
            )
        return self.value


@contextmanager
def reading(view: View, place: str) -> Iterator[Tap]:
    """Read the output of a stage, or the features: what the (first) classifier is given.

    Raises:
        UnknownName: there is no such stage, or no classifier.
    """
    tap = Tap(place)
    if place == FEATURES:

        def look(_module: nn.Module, inputs: tuple[object, ...]) -> None:
            tap.calls, tap.value = tap.calls + 1, first_tensor(inputs)

        handle: RemovableHandle = _head(view).register_forward_pre_hook(look)
    else:

        def keep(_module: nn.Module, _inputs: tuple[object, ...], output: object) -> None:
            tap.calls, tap.value = tap.calls + 1, first_tensor(output)

        handle = _module(view, place).register_forward_hook(keep)
    try:
        yield tap
    finally:
        handle.remove()


@contextmanager
def moving(view: View, place: str, step: Tensor) -> Iterator[Tap]:
    """Add a tensor to the output of a stage; its derivative is the one with respect to that output.

    Raises:
        UnknownName: there is no such stage.
    """
    tap = Tap(place)

    def move(_module: nn.Module, _inputs: tuple[object, ...], output: object) -> object:
        tap.calls, tap.value = tap.calls + 1, first_tensor(output)
        return output if tap.value is None else _replaced(output, tap.value + step)

    handle = _module(view, place).register_forward_hook(move)
    try:
        yield tap
    finally:
        handle.remove()


@contextmanager
def reading_all(view: View, places: tuple[str, ...]) -> Iterator[dict[str, Tap]]:
    """Read the outputs of many stages, in the order in which they run; stages that do not run are missing.

    What the network goes on with is a copy, so that nothing changes the tensors in place afterwards.

    Raises:
        UnknownName: there is no such stage.
    """
    taps: dict[str, Tap] = {}

    def keep(place: str, output: object) -> object:
        tap = taps.setdefault(place, Tap(place))
        tap.calls, tap.value = tap.calls + 1, first_tensor(output)
        return output if tap.value is None else _replaced(output, tap.value.clone())

    def watch(place: str) -> RemovableHandle:
        return _module(view, place).register_forward_hook(
            lambda _module, _inputs, output: keep(place, output)
        )

    handles: list[RemovableHandle] = []
    try:
        for place in places:
            handles.append(watch(place))
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(output: object) -> Tensor | None:
    """The first floating-point tensor of a tensor, a sequence, or a mapping (a transformers output)."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    parts = output.values() if isinstance(output, Mapping) else output
    if not isinstance(parts, list | tuple) and not isinstance(output, Mapping):
        return None
    return next((t for t in map(first_tensor, cast("list[object]", parts)) if t is not None), None)


def _replaced(output: object, tensor: Tensor) -> object:
    """The same structure with another first tensor."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, Mapping):
        key = next(k for k, v in output.items() if first_tensor(v) is not None)
        return type(output)(**{**output, key: _replaced(output[key], tensor)})
    parts = list(cast("list[object]", output))
    index = next(i for i, part in enumerate(parts) if first_tensor(part) is not None)
    parts[index] = _replaced(parts[index], tensor)
    kind = type(output)
    return kind(*parts) if "_fields" in vars(kind) else kind(parts)  # type: ignore[call-arg]


def _module(view: View, place: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(view.module.named_modules())
    if place == "" or place not in modules:
        raise UnknownName("stage", place, (INPUT, OUTPUT, FEATURES, *view.stages()))
    return modules[place]


def _head(view: View) -> nn.Module:
    heads = [weight.name for weight in view.weights if weight.role == "head"]
    if not heads:
        raise BadInput(f"{view.architecture} has no classifier: there are no features; name a stage instead")
    return view.module.get_submodule(heads[0].rpartition(".")[0])
