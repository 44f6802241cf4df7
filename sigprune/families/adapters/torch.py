"""Any torch module: by the import path of something that makes it, or described as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn
from torch.nn.modules.conv import _ConvNd

from sigprune.base.errors import BadInput, CheckpointError, one_line
from sigprune.base.registry import JsonValue
from sigprune.families.adapters._examples import first_input, first_tensor, ramp
from sigprune.families.adapters._factories import factory
from sigprune.families.adapters._module_tree.walk import survey
from sigprune.format.names import CONFIG
from sigprune.values.batch import Batch
from sigprune.values.preprocessing import ImageDefaults, Preprocessing
from sigprune.values.view import View, readonly

IMAGE_SIZE = 32
SEQUENCE = 16
SHARDED = False


def accepts(module: nn.Module) -> bool:
    """True: every module can be described as torch sees it."""
    return isinstance(module, nn.Module)


def names() -> Sequence[str]:
    """None: any import path will do."""
    return ()


def build(architecture: str, args: Mapping[str, JsonValue]) -> nn.Module:
    """Call what the import path names, and expect a module.

    What is known beforehand to make none is not called (see ``_factories``).

    Args:
        architecture: dotted path of a class or function, e.g. ``torchvision.models.resnet18``.
        args: its keyword arguments.

    Raises:
        BadInput: it cannot be imported or called, or does not make a module.

    Example:
        >>> build("torch.nn.Linear", {"in_features": 3, "out_features": 2})
        Linear(in_features=3, out_features=2, bias=True)
    """
    make = factory(architecture)
    try:
        module = make(**args)
    except Exception as error:  # whatever the caller's own code raises
        given = ", ".join(f"{key}={value!r}" for key, value in args.items())
        raise BadInput(f"torch:{architecture}({given}) failed: {one_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise BadInput(f"torch:{architecture}: expected a torch.nn.Module, got {type(module).__name__}")
    return module


def build_pretrained(hub_id: str, revision: str | None, args: Mapping[str, JsonValue]) -> nn.Module:
    """There are no pretrained weights behind an import path.

    Raises:
        BadInput: always; it says what to do instead.
    """
    del revision, args
    raise BadInput(
        f"torch:{hub_id} has no pretrained weights that sigprune knows of; "
        "let the callable load them itself, or pass your own model to describe()"
    )


def describe(module: nn.Module) -> View:
    """The view of any module.

    The last linear layer, if nothing with weights follows it and it stands in no module list, is the
    classifier. The example's shape is told from the first layer: (1, in) for a linear one, (1, in, 32, 32)
    for a 2-D convolution, 16 ids for an embedding; it is an empty batch where that cannot be told.
    """
    name = first_input(module)
    found = survey(module, _classifier(module))
    parameter = next(module.parameters())
    return View(
        module=module,
        library="torch",
        architecture=type(module).__name__,
        weights=tuple(found.weights),
        skipped=readonly(found.skipped),
        gates=tuple(found.gates),
        example=_example(module, name).to(parameter.device, parameter.dtype),
        input_name=name,
        read_output=first_tensor,
        prunable=found.prunable,
    )


def write_config(module: nn.Module, folder: Path, preprocessing: Preprocessing | None = None) -> None:
    """Write a ``config.json`` that says what the model is. It does not say how to make it again."""
    del preprocessing  # the card says it: no library reads it from here
    kind = type(module)
    config: dict[str, JsonValue] = {"library": "torch", "class": f"{kind.__module__}.{kind.__qualname__}"}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def image_defaults(module: nn.Module, *, pretrained: bool) -> ImageDefaults:
    """Torchvision's transforms resize with Pillow; a module says nothing of its normalisation."""
    del module, pretrained
    return ImageDefaults("pillow")


def rebuild(folder: Path) -> nn.Module:
    """A folder never says which code of yours to run.

    Raises:
        CheckpointError: always; it says what to do instead.
    """
    raise CheckpointError(
        f"{folder / CONFIG} describes a model of one's own, and no folder may name code to run: "
        "make the model yourself and pass it: load(folder, into=model)"
    )


def _classifier(module: nn.Module) -> tuple[str, ...]:
    matrices = (nn.Linear, _ConvNd, nn.Embedding, nn.RNNBase, nn.MultiheadAttention)
    layers = [(path, m) for path, m in module.named_modules() if isinstance(m, matrices)]
    if len(layers) < 2 or not isinstance(layers[-1][1], nn.Linear):
        return ()
    path = layers[-1][0]
    lists = (name for name, m in module.named_modules() if isinstance(m, nn.ModuleList))
    return () if any(path.startswith(f"{name}.") for name in lists) else (path,)


def _example(module: nn.Module, name: str) -> Batch:
    import torch

    kinds = (nn.Linear, nn.Bilinear, nn.Embedding, nn.RNNBase, nn.MultiheadAttention, _ConvNd)
    layer = next((m for m in module.modules() if isinstance(m, kinds)), None)
    if isinstance(layer, nn.Linear):
        return Batch({name: ramp(1, layer.in_features)})
    if isinstance(layer, _ConvNd):
        return Batch({name: ramp(1, layer.in_channels, *(IMAGE_SIZE for _ in layer.kernel_size))})
    if isinstance(layer, nn.RNNBase):
        return Batch({name: ramp(1, SEQUENCE, layer.input_size)})
    if isinstance(layer, nn.Embedding):
        return Batch({name: (torch.arange(SEQUENCE) % layer.num_embeddings).unsqueeze(0)})
    return Batch({})
