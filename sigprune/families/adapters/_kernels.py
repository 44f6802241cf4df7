"""Kernels that a model of transformers chooses by its configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

from torch import nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_EXPERTS = "_experts_implementation_internal"


def portable(model: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """A context in which experts are multiplied one by one, which every dtype can do.

    torch's grouped products, the default for stacked experts, have no float64 kernel. The setting is read in
    each forward pass from the configuration of the module; ``set_experts_implementation`` would write it to
    whole models, and the oldest transformers supported has nothing to read it back with.
    """
    return partial(_one_by_one, model)


@contextmanager
def _one_by_one(model: nn.Module) -> Iterator[None]:
    changed = [fields for fields in _configurations(model) if fields.get(_EXPERTS) == "grouped_mm"]
    try:
        for fields in changed:
            fields[_EXPERTS] = "eager"
        yield
    finally:
        for fields in changed:
            fields[_EXPERTS] = "grouped_mm"


def _configurations(model: nn.Module) -> list[dict[str, object]]:
    """The fields of every configuration that a module holds, each once."""
    held = [vars(module).get("config") for module in model.modules()]
    found = {id(one): cast("PretrainedConfig", one) for one in held if one is not None}
    return [vars(one) for one in found.values()]
