"""Every type of transformers can be had small: what the tests of the adapter stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from tests.support.shrinking import HINTS, LARGE, LEFT_OUT, PARTS, model_class, shrunk, small_config

BUILT = [model_type for model_type in MODEL_MAPPING_NAMES if model_type not in LEFT_OUT]
LIMIT = 3_000_000

VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])

pytestmark = [
    pytest.mark.skipif(VERSION < (5, 23), reason="the hints are of the types of transformers 5.23"),
    # deprecations inside transformers and torch, which differ from one type to the next
    pytest.mark.filterwarnings("ignore"),
]


def kinds(config: PretrainedConfig, path: str = "") -> Iterator[tuple[str, set[str]]]:
    """Every list that names the kinds of the layers, with the kinds in it, in all sub-configurations."""
    for name in (
        "layer_types",
        "mlp_layer_types",
        "layers_block_type",
        "indexer_types",
        "block_types",
        "attn_layers",
    ):
        values = getattr(config, name, None)
        if isinstance(values, list | tuple) and all(isinstance(value, str) for value in values):
            yield f"{path}{name}", set(values)
    for name, value in vars(config).items():
        if isinstance(value, PretrainedConfig):
            yield from kinds(value, f"{path}{name}.")


@pytest.mark.slow
@pytest.mark.parametrize("model_type", BUILT)
def test_builds_small(model_type):
    model = shrunk(model_type)
    assert isinstance(model, model_class(model_type))
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    count = sum(p.numel() for p in model.parameters())
    assert 0 < count <= LARGE.get(model_type, LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", BUILT)
def test_keeps_every_kind_of_layer(model_type):
    whole, small = dict(kinds(CONFIG_MAPPING[model_type]())), dict(kinds(small_config(model_type)))
    assert {name: whole[name] - small.get(name, set()) for name in whole} == {name: set() for name in whole}


def classes(model: nn.Module) -> set[str]:
    """The classes of transformers among the modules; backbones of timm are replaced by other ones."""
    kinds_of_modules = {type(module) for module in model.modules()}
    return {kind.__name__ for kind in kinds_of_modules if kind.__module__.startswith("transformers.models.")}


@pytest.mark.slow
@pytest.mark.parametrize("model_type", BUILT)
def test_has_every_class_of_module(model_type):
    config = CONFIG_MAPPING[model_type]()
    if model_type in PARTS:
        config = getattr(config, PARTS[model_type])
    try:
        with torch.device("meta"):
            whole = model_class(model_type)._from_config(config)
    except Exception as error:  # whatever a constructor raises for values that are missing
        pytest.skip(f"the default configuration cannot be built: {type(error).__name__}")
    assert classes(whole) - classes(shrunk(model_type)) == set()


@pytest.mark.slow
@pytest.mark.parametrize("model_type", LEFT_OUT)
def test_left_out_types_fail_with_a_reason(model_type):
    assert len(LEFT_OUT[model_type]) > 10
    with pytest.raises((ImportError, AttributeError)):
        shrunk(model_type)


def test_hints_name_types():
    assert not set(HINTS) - set(CONFIG_MAPPING)
    assert not (set(PARTS) | set(LEFT_OUT) | set(LARGE)) - set(MODEL_MAPPING_NAMES)
    assert len(BUILT) >= 600
