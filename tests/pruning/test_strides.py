"""Weights may be stored in any order: channels last, transposed, as every other entry of a larger tensor."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sigprune import apply_, describe, load, prune, reinit_, restore_, save
from sigprune.base.tensors import digest
from sigprune.families.allocations import allocations
from sigprune.families.codecs import codecs
from sigprune.families.patterns import patterns
from sigprune.families.repairs import repairs
from sigprune.families.scores import scores
from sigprune.values.view import View
from tests.support.networks import SmallConv, labelled, seeded


def last_first(tensor: Tensor) -> Tensor:
    """The same values with the strides of the axes reversed: ``w.t()``, and like channels last."""
    axes = tuple(reversed(range(tensor.dim())))
    return tensor.permute(axes).contiguous().permute(axes)


def spread(tensor: Tensor) -> Tensor:
    """The same values with gaps between them."""
    return tensor.repeat_interleave(2, -1)[..., ::2]


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else last_first(tensor)


ORDERS = {"last_first": last_first, "spread": spread, "channels_last": channels_last}


def view_of(order: Callable[[Tensor], Tensor] | None = None) -> View:
    module = seeded(SmallConv())
    if order is not None:
        for parameter in module.parameters():
            parameter.data = order(parameter.data)
        assert not module.head.weight.is_contiguous()
        assert not module.conv2.weight.is_contiguous()
    return describe(module, example=torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("name", scores.names())
def test_masks_do_not_depend_on_strides(name, order):
    data = None if scores.get(name).NEEDS == "nothing" else labelled(view_of(), 4, 2)
    schedules = {"force": "exponential", "synflow": "exponential"}
    masks = [
        prune(v, sparsity=0.7, score=name, schedule=schedules.get(name, "oneshot"), batches=data)
        for v in (view_of(), view_of(order))
    ]
    assert masks[1].digest() == masks[0].digest()


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("pattern", patterns.names())
@pytest.mark.parametrize("allocation", allocations.names())
def test_allocations_and_patterns_do_not_depend_on_strides(allocation, pattern, order):
    """Also among scores of which many are equal."""
    found = []
    for view in (view_of(), view_of(order)):
        with torch.no_grad():
            for parameter in view.module.parameters():
                parameter.copy_(parameter.mul(4).round())
        try:
            found.append(prune(view, sparsity=0.5, score="magnitude", allocation=allocation, pattern=pattern))
        except ValueError as error:  # of parts that do not go together
            found.append(str(error))
    assert found[0] == found[1]


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("isometry", repairs.names())
def test_fresh_and_repaired_values_do_not_depend_on_strides(isometry, order):
    found = []
    for view in (view_of(), view_of(order)):
        strides = [p.stride() for p in view.module.parameters()]
        reinit_(view)
        fresh = copy.deepcopy(view.params())
        mask = prune(view, sparsity=0.5, score="magnitude")
        restore_(view, mask, isometry)
        assert [p.stride() for p in view.module.parameters()] == strides
        found.append((fresh, view.params()))
    for expected, values in zip(*found, strict=True):
        assert digest(values) == digest(expected)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("codec", codecs.names())
def test_files_do_not_depend_on_strides(codec, order, tmp_path):
    halves = codec == "two_four"
    parts = {"pattern": "n_m", "allocation": "uniform"} if halves else {}
    manifests = []
    for index, whole in enumerate((view_of(), view_of(order))):
        view = whole.select(include=("head",)) if halves else whole
        mask = prune(view, sparsity=0.5, score="magnitude", **parts)
        apply_(view, mask)
        manifests.append(save(tmp_path / str(index), view, mask, codec=codec))
        checkpoint = load(tmp_path / str(index), into=view_of(order).module)
        assert checkpoint.mask == mask
        assert digest(checkpoint.model.state_dict()) == digest(view.module.state_dict())
    assert manifests[0] == manifests[1]
    for file in ("model.safetensors", "model.sparse.safetensors"):
        assert (tmp_path / "0" / file).read_bytes() == (tmp_path / "1" / file).read_bytes()
