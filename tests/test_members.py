"""End to end on real values: small members of both libraries, re-initialised, pruned, saved and loaded."""

from __future__ import annotations

import inspect
from collections import defaultdict
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import timm
import torch
import yaml
from torch import nn

from sigprune.base.errors import UnsupportedModel
from sigprune.base.rng import global_stream
from sigprune.base.tensors import digest
from sigprune.checkpoint.read import load
from sigprune.checkpoint.save import save
from sigprune.families.adapters._examples import ramp
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe, open_model
from sigprune.pruning.choose import apply_, prune
from sigprune.values.mask import Mask
from sigprune.values.orthogonality import floor, residual
from sigprune.values.view import View
from tests.catalogue import TYPES
from tests.families.test_adapters_transformers_inputs import NOT_FINITE, RUN, WITHOUT_CACHE
from tests.support.gradients import Pass
from tests.support.shrinking import shrunk
from tests.support.test_shrinking import VERSION

FILE = yaml.safe_load((Path(__file__).parent / "members.yaml").read_text())
TEST_MODELS = tuple(timm.list_models("test_*"))
CHANNEL_PRUNED = tuple(timm.list_models("*_pruned"))
TIMM = {name: {} for name in TEST_MODELS} | FILE["timm"]
MEMBERS = TIMM | {name: {"size": 64} for name in CHANNEL_PRUNED}
SILENT = FILE["silent"]
NO_BACKWARD = FILE["no_backward"]

NEWEST = pytest.mark.skipif(VERSION < (5, 23), reason="the small models are of transformers 5.23")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the libraries' own deprecations


def opened(name: str, **more: int) -> tuple[nn.Module, View]:
    """A member of timm, with more arguments, and its view."""
    member = MEMBERS[name]
    model = open_model(f"timm:{name}", args={**member.get("args", {}), **more})
    view = describe(model, batchnorm="eval")
    if "size" in member:
        channels = view.example.inputs[view.input_name].shape[1]
        view = describe(model, batchnorm="eval", example=ramp(1, channels, member["size"], member["size"]))
    return model, view


def check_forward(view: View) -> None:
    """The output is the model's own."""
    with torch.no_grad():
        with global_stream(0, "forward"):  # masked autoencoders draw their mask
            output = view.forward({}, view.example)
        with global_stream(0, "forward"):
            more = WITHOUT_CACHE.get(view.architecture, {})
            own = view.read_output(view.module.eval()(**view.example.inputs, **more))
    torch.testing.assert_close(output, own, equal_nan=True)


def check_blocks_are_orthogonal(view: View) -> None:
    """Every block of every weight, in float64."""
    params = view.params()
    for weight in view.weights:
        if weight.role == "embedding" or weight.standardised:
            continue  # standardised weights are orthogonal as used: tests/init/test_policy.py
        alike = defaultdict(list)
        for block in weight.layout.blocks(params[weight.name]):
            alike[block.flatten(1).shape].append(block.flatten(1).double())
        for blocks in map(torch.stack, alike.values()):
            distances = residual(blocks) - floor(torch.ones_like(blocks, dtype=torch.bool))
            assert float(distances.abs().max()) < 1e-5, weight.name


def check_checkpoint(view: View, folder: Path, into: nn.Module | None = None) -> None:
    """Pruned to a tenth, saved and loaded: the same count, mask and bits."""
    mask = prune(view, sparsity=0.9, score="magnitude")
    assert mask.kept == round(mask.total * 0.1)
    apply_(view, mask)
    save(folder, view, mask)
    checkpoint = load(folder, into=into)
    assert checkpoint.mask == mask
    saved = view.module.state_dict()
    for name, tensor in checkpoint.model.state_dict().items():
        bits = (one.reshape(-1).view(torch.uint8) for one in (tensor, saved.pop(name)))
        assert torch.equal(*bits), name
    assert not saved


def check_gradients(view: View, name: str) -> None:
    """Every weight has a finite gradient, but for those that the pass does not use and the reviewed ones."""
    passed = Pass(view)
    assert passed.output.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in passed.gradients.values())
    silent = passed.silent(view)
    groups = [group for group in SILENT if name in group["types"]]
    assert not unnamed(silent, [pattern for group in groups for pattern in group["weights"]])
    for group in groups:
        assert len(unnamed(silent, group["weights"])) < len(silent), f"no exception any more: {group['why']}"


def unnamed(weights: list[str], patterns: list[str]) -> list[str]:
    """The weights that no pattern matches."""
    return [name for name in weights if not any(fnmatchcase(name, p) for p in patterns)]


@pytest.mark.parametrize("name", MEMBERS)
def test_timm(name, tmp_path):
    _, view = opened(name)
    view.module.double()
    view = describe(view.module, batchnorm="eval", example=view.example)
    check_forward(view)
    reinit_(view)
    check_blocks_are_orthogonal(view)
    check_gradients(view, name)
    check_checkpoint(view, tmp_path / name)


def test_every_module_file_of_timm_is_there():
    there = {module for module in timm.list_modules() if set(timm.list_models(module=module)) & set(TIMM)}
    assert there == set(timm.list_modules())
    assert len(TEST_MODELS) >= 18
    assert len(CHANNEL_PRUNED) == 7


@NEWEST
@pytest.mark.parametrize("model_type", [t for t in RUN if t not in NO_BACKWARD | NOT_FINITE])
def test_transformers_forward_and_backward(model_type):
    view = describe(shrunk(model_type), batchnorm="eval")
    check_forward(view)
    reinit_(view)
    check_gradients(view, model_type)


@NEWEST
@pytest.mark.parametrize("model_type", NO_BACKWARD)
def test_the_list_of_those_without_a_backward_pass_is_short(model_type):
    view = describe(shrunk(model_type))
    with pytest.raises((RuntimeError, AssertionError, TypeError, UnsupportedModel)):
        Pass(view)


@NEWEST
@pytest.mark.parametrize("model_type", TYPES[::3])
def test_transformers(model_type, tmp_path):
    """A third of all types: text, vision, sound, several of them, experts."""
    model = shrunk(model_type).double()
    name = next(iter(inspect.signature(model.forward).parameters))
    view = describe(model, example={name: torch.zeros(1)})  # which it does not take
    reinit_(view)
    check_blocks_are_orthogonal(view)
    check_checkpoint(view, tmp_path / "out", into=shrunk(model_type).double())


@NEWEST
def test_the_exceptions_are_of_models_that_run():
    assert {name for group in SILENT for name in group["types"]} <= set(TIMM) | set(RUN)
    assert set(NO_BACKWARD) <= set(RUN)


def heads(view: View) -> list[tuple[int, ...]]:
    return [w.shape for w in view.weights if w.role == "head"]


OTHERS = [
    (name, channels)
    for name in TIMM
    if name not in FILE["large"]
    for channels in ((3,) if name in FILE["colour_only"] else (1, 4))
]


@pytest.mark.parametrize(("name", "channels"), OTHERS)
def test_other_classes_and_channels(name, channels, tmp_path):
    model, view = opened(name, num_classes=7, in_chans=channels)
    assert view.example.inputs[view.input_name].shape[1] == channels
    with torch.no_grad():
        assert view.forward({}, view.example).shape == (1, 7)
    assert heads(view)
    assert {shape[0] for shape in heads(view)} == {7}
    save(tmp_path / "out", view, Mask({}))
    again = load(tmp_path / "out").model
    assert digest(again.state_dict()) == digest(model.state_dict())
    assert heads(describe(again)) == heads(view)


@pytest.mark.parametrize("name", TEST_MODELS)
def test_without_classes_the_features_are_the_output(name):
    model, view = opened(name, num_classes=0)
    assert not heads(view)
    with torch.no_grad():
        assert view.forward({}, view.example).shape == (1, model.head_hidden_size)
