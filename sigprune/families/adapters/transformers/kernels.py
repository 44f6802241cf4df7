"""Kernels and caches that a model of transformers chooses by its configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

from torch import nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_LOOKING: dict[str, object] = {"_experts_implementation_internal": "eager", "use_cache": False}
"""Field of a configuration -> its value while a view looks; only fields that are set have it changed."""


def portable(model: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """A context in which experts are multiplied one by one, and no state is kept for later tokens.

    torch's grouped products, the default for stacked experts, have no float64 kernel and no forward-mode
    derivative; a state that is written in place (RWKV) has no derivative at all. Both settings are read in
    each forward pass from the configuration of the module; ``set_experts_implementation`` would write one to
    whole models, and the oldest transformers supported has nothing to read it back with.
    """
    return partial(_looking, model)


@contextmanager
def _looking(model: nn.Module) -> Iterator[None]:
    with ExitStack() as stack:
        for config in _configurations(model):
            for field, value in _LOOKING.items():
                if getattr(config, field, None) not in {None, value}:
                    stack.enter_context(_setting(config, field, value))
        yield


@contextmanager
def _setting(config: PretrainedConfig, field: str, value: object) -> Iterator[None]:
    """Another value for a while; a field that the configuration has from its class is taken away again."""
    fields = vars(config)
    before = dict(fields)
    fields[field] = value
    try:
        yield
    finally:
        if field in before:
            fields[field] = before[field]
        else:
            del fields[field]


def _configurations(model: nn.Module) -> list[PretrainedConfig]:
    """Every configuration that a module holds, each once."""
    held = [vars(module).get("config") for module in model.modules()]
    found = {id(one): one for one in held if one is not None}
    return [cast("PretrainedConfig", one) for one in found.values()]
