"""Rebuilding a model from the configuration of its folder, and proving that this makes the model again."""

from __future__ import annotations

import math
import types
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from sigprune.base.errors import BadInput, CheckpointError, TooLarge, one_line
from sigprune.base.rng import global_stream
from sigprune.families.adapters import adapters
from sigprune.format.names import CONFIG
from sigprune.values.batch import Batch
from sigprune.values.view import View

_SWITCHES = frozenset({
    "checkpoint_activations",
    "fused_attn",
    "grad_checkpointing",
    "gradient_checkpointing",
    "inplace",
    "name_or_path",
    "training",
})
"""Attributes that choose how the same function is computed, or say where it comes from."""


def rebuilt(folder: Path, library: str, architecture: str) -> nn.Module:
    """The model that ``config.json`` describes, its random parameters left to be loaded.

    Args:
        folder: holds ``config.json``.
        library: the adapter that reads it.
        architecture: for messages.

    Raises:
        CheckpointError: the library cannot build what the file says.
    """
    try:
        return adapters.get(library).rebuild(folder)
    except TooLarge:
        raise
    except CheckpointError as error:
        raise CheckpointError(f"{error} (or pass a model of yours: load(..., into=model))") from error
    except Exception as error:  # whatever libraries raise for values that they do not expect
        raise CheckpointError(
            f"{folder / CONFIG}: {library} cannot rebuild {architecture} from it: {error}; "
            "build the model yourself and pass it as load(..., into=model)"
        ) from error


def in_dtype(model: nn.Module, dtypes: Collection[torch.dtype]) -> nn.Module:
    """The model in the dtype of the floating-point parameters that it is to be given, if they have one."""
    made = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return model.to(next(iter(dtypes))) if len(dtypes) == 1 and set(dtypes) != made else model


def prove_config(view: View, folder: Path) -> None:
    """Make sure that the folder's ``config.json`` makes the view's model again.

    The model is built without values and given the tensors of the view's module, without a copy. Then names,
    shapes, the class and the settings of every module, and the output for the view's example must be the
    module's (up to 100 units in the last place of the largest). Outputs are not compared for models on
    several devices and for those that do not take their example. A model of one's own (``torch``) has no such
    configuration, and nothing is proved: :func:`~sigprune.load` checks names and shapes once it is given one.

    Cost: building the model without drawing values, and two forward passes of one example; memory: the
    buffers and the activations.

    Raises:
        BadInput: it makes another model; names what differs, where, and what to do.
    """
    if view.library == "torch":
        return
    try:
        model = _with_values(view, folder)
        difference = _first_difference(view.module, model) or _other_output(view, model)
    except CheckpointError as error:
        raise BadInput(f"{view.architecture} cannot be saved: {one_line(error)}; {_remedy(view)}") from error
    if difference is not None:
        raise BadInput(
            f"{view.architecture} cannot be saved: the {CONFIG} that {view.library} writes for it makes "
            f"another network: {difference}; {_remedy(view)}"
        )


def _remedy(view: View) -> str:
    own = (
        "change model.config as the model was changed"
        if view.library == "transformers"
        else "open the model with the arguments that make it so"
    )
    return (
        f"{own}, or save it as a model of your own, save(folder, dataclasses.replace(view, library='torch'), "
        "mask), which load(folder, into=model) reads"
    )


def _with_values(view: View, folder: Path) -> nn.Module:
    """The rebuilt model with the tensors of the view's module; without them if names or shapes differ."""
    try:
        with _parameters_on_meta():
            model = rebuilt(folder, view.library, view.architecture)
    except CheckpointError:  # maybe only because its constructor looks at values
        model = rebuilt(folder, view.library, view.architecture)
    if _given_(model, view.module) and any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        # a parameter that the state dict leaves out, or a buffer that was made where the parameters are
        model = rebuilt(folder, view.library, view.architecture)
        _given_(model, view.module)
    return model


def _given_(model: nn.Module, module: nn.Module) -> bool:
    """Give the model the module's tensors, without a copy; whether it has the same names and shapes."""
    state = module.state_dict()
    in_dtype(model, {p.dtype for p in module.parameters() if p.is_floating_point()})
    if _shapes(model.state_dict()) != _shapes(state):
        return False
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # integers could not have a gradient
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"the model of its {CONFIG} does not take its tensors: {error}") from error
    return True


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters that modules are given meanwhile have shapes and no values; buffers have both."""
    known: dict[int, tuple[weakref.ref[nn.Parameter], nn.Parameter]] = {}

    def without_values(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        del module, name
        if type(parameter) is not nn.Parameter or parameter.is_meta:
            return None
        given, made = known.get(id(parameter), (None, None))
        if made is None or given is None or given() is not parameter:
            made = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
            known[id(parameter)] = weakref.ref(parameter), made
        return made  # a parameter under two names stays one

    handle = register_module_parameter_registration_hook(cast("Callable[..., None]", without_values))
    try:
        yield
    finally:
        handle.remove()


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _first_difference(module: nn.Module, model: nn.Module) -> str | None:
    """Where the model that is saved and the one that is made first differ, module by module."""
    saved, made = dict(module.named_modules()), dict(model.named_modules())
    for path in [*made, *(path for path in saved if path not in made)]:
        place = path or "the model"
        if path not in saved:
            return f"it has {place} ({type(made[path]).__name__}), which the model lacks"
        if path not in made:
            return f"it lacks {place} ({type(saved[path]).__name__})"
        difference = _module_difference(saved[path], made[path])
        if difference is not None:
            return f"{place} {difference}"
    kept, given = _shapes(module.state_dict()), _shapes(model.state_dict())
    for name in sorted(kept.keys() | given.keys()):
        if kept.get(name) != given.get(name):
            return f"{name} has the shape {given.get(name, 'of none')}, in the model {kept.get(name, 'none')}"
    return None


def _module_difference(saved: nn.Module, made: nn.Module) -> str | None:
    """How two modules differ, apart from their children and their tensors' values."""
    kinds = [f"{type(one).__module__}.{type(one).__qualname__}" for one in (made, saved)]
    if kinds[0] != kinds[1]:
        short = [type(one).__name__ for one in (made, saved)]
        return "is a {}, in the model a {}".format(*(short if short[0] != short[1] else kinds))
    tensors = [_shapes({name: t for name, t in _own_tensors(one)}) for one in (made, saved)]
    for name in sorted(tensors[0].keys() | tensors[1].keys()):
        shapes = [own.get(name) for own in tensors]
        if shapes[0] != shapes[1]:
            return "({}) has {} {}, in the model {}".format(
                type(made).__name__, name, *("none" if s is None else f"of the shape {s}" for s in shapes)
            )
    settings = [_settings(one) for one in (made, saved)]
    for name in settings[0]:
        if name in settings[1] and not _same_setting(name, settings[0][name], settings[1][name]):
            return f"({type(made).__name__}) has {name}={settings[0][name]}, in the model {settings[1][name]}"
    return None


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and stored buffers; others may be made for the size of the last input (ConViT)."""
    yield from module.named_parameters(recurse=False)
    yield from (
        (name, buffer)
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    )


def _settings(module: nn.Module) -> dict[str, object]:
    """Public attributes that are plain values, or functions, by name."""
    return {
        name: _named(value)
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in _SWITCHES and _is_setting(value)
    }


def _is_setting(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_setting, value))
    return value is None or isinstance(
        value, bool | int | float | str | types.FunctionType | types.BuiltinFunctionType
    )


def _same_setting(name: str, one: object, other: object) -> bool:
    """Whether they are equal; rates of DropPath, except for the rounding of bfloat16.

    transformers spreads these over the layers in the dtype that it builds a model in.
    """
    if name == "drop_prob" and isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=2**-8)
    return one == other


def _named(value: object) -> object:
    """A function by its name: one that is made twice is not one object."""
    if isinstance(value, tuple | list):
        return tuple(map(_named, value))
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    return value


def _other_output(view: View, model: nn.Module) -> str | None:
    """How the outputs for the example differ, and the first module whose own output does."""
    devices = {tensor.device for tensor in (*view.module.parameters(), *view.module.buffers())}
    if not view.example.inputs or len(devices) != 1:
        return None
    _move_buffers_(model, next(iter(devices)))
    own = view.using("eval")
    other = replace(own, module=model)
    with torch.no_grad():
        try:
            batch = own.read(own.example)
            with global_stream(0, "prove"):
                expected = own.forward({}, batch)
        except Exception:  # whatever a model raises for an example that it does not take
            return None
        try:
            with global_stream(0, "prove"):
                got = other.forward({}, batch)
        except Exception as error:
            raise CheckpointError(
                f"the model of its {CONFIG} does not take the example: {one_line(error)}"
            ) from error
    if got.shape != expected.shape:
        return f"its output has the shape {tuple(got.shape)}, that of the model {tuple(expected.shape)}"
    if _equal(got, expected):
        return None
    worst = float((got - expected).abs().nan_to_num(torch.inf).max())
    where = _first_other(_module_outputs(own, batch), _module_outputs(other, batch))
    return f"with equal weights its outputs for the example differ by {worst:.3g}{where}"


def _equal(got: Tensor, expected: Tensor) -> bool:
    """Whether they are equal but for the order of sums; NaN is equal to NaN."""
    epsilon = torch.finfo(expected.dtype).eps
    bound = min(epsilon**0.5, 100 * epsilon) * float(expected.abs().nan_to_num(0.0).max())
    return got.shape == expected.shape and torch.allclose(got, expected, rtol=0, atol=bound, equal_nan=True)


def _module_outputs(view: View, batch: Batch) -> dict[str, Tensor]:
    """The first floating-point tensor that each module gives, by its path, in the order of their ends."""
    outputs: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            del module, inputs
            found = output[0] if isinstance(output, tuple | list) and output else output
            if isinstance(found, Tensor) and found.is_floating_point():
                outputs.setdefault(path, found.detach().clone())

        return hook

    handles = [module.register_forward_hook(keep(path)) for path, module in view.module.named_modules()]
    try:
        with torch.no_grad(), global_stream(0, "prove"):
            view.forward({}, batch)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _first_other(saved: Mapping[str, Tensor], made: Mapping[str, Tensor]) -> str:
    """The first module whose output differs, in words; empty where none of them does by itself."""
    for path, output in saved.items():
        if path in made and not _equal(made[path], output):
            return f", first in {path}" if path else ""
    return ""


def _move_buffers_(model: nn.Module, device: torch.device) -> None:
    """Parameters are there already: they are the module's."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(
                name, buffer.to(device), persistent=name not in module._non_persistent_buffers_set
            )
