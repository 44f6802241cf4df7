"""The contract of the objectives, over every member."""

from __future__ import annotations

import pytest
import torch

from sigprune.base.errors import NeedsData
from sigprune.base.seeds import generator
from sigprune.families.objectives import objectives
from sigprune.values.batch import Batch


def logits() -> torch.Tensor:
    return torch.randn(6, 4, generator=generator(0, "test", "logits"), dtype=torch.float64)


@pytest.mark.parametrize("name", objectives.names())
def test_contract(name):
    output = logits().requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    member = objectives.get(name)
    value = member.objective(output, Batch({"x": torch.zeros(6, 1)}, labels))
    assert value.shape == ()
    (gradient,) = torch.autograd.grad(value, output)
    assert torch.isfinite(gradient).all()
    both = torch.cat([output, output])
    doubled = member.objective(both, Batch({"x": torch.zeros(12, 1)}, labels.repeat(2)))
    torch.testing.assert_close(doubled, value)  # a mean over the batch, not a sum
    if member.NEEDS != "labels":
        member.objective(output, Batch({"x": torch.zeros(6, 1)}))


def test_labels_without_labels():
    with pytest.raises(NeedsData, match="'uniform' does without"):
        objectives.get("labels").objective(logits(), Batch({"x": torch.zeros(6, 1)}))


def test_uniform_is_the_cross_entropy_with_the_uniform_target():
    output = logits()
    target = torch.full((6, 4), 0.25, dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(output, target)
    torch.testing.assert_close(objectives.get("uniform").objective(output, Batch({})), expected)
