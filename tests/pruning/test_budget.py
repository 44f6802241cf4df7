"""Budgets: exactly so many parameters are left."""

from __future__ import annotations

import pytest
import timm
from torch import nn

from sigprune import apply_, describe, prune, sparsity_for
from sigprune.base.errors import BadInput
from sigprune.pruning.budget import parameters_of


def alive(module: nn.Module) -> int:
    """Parameters that are no removed entries: norms and biases may hold zeros that count."""
    view = describe(module)
    prunable = set(view.prunable)
    return sum(
        int(p.count_nonzero()) if name in prunable else p.numel() for name, p in module.named_parameters()
    )


@pytest.mark.parametrize("budget", [20_000, 123_457])
def test_the_network_keeps_the_budget_to_the_entry(budget):
    model = timm.create_model("test_resnet", num_classes=10)
    view = describe(model)
    mask = prune(view, sparsity=sparsity_for(view, budget), score="magnitude")
    apply_(view, mask)
    assert alive(model) == budget


def test_what_may_not_be_removed_counts():
    model = timm.create_model("test_vit", num_classes=10)
    view = describe(model, exclude=("head",))
    fixed = sum(p.numel() for p in model.parameters()) - sum(
        model.get_parameter(name).numel() for name in view.prunable
    )
    mask = prune(view, sparsity=sparsity_for(view, fixed + 7), score="random")
    assert mask.kept == 7
    with pytest.raises(BadInput, match=f"{fixed:,} parameters is too low for test_vit: {fixed:,} of its"):
        sparsity_for(view, fixed)


def test_the_whole_network_and_more():
    view = describe(nn.Linear(8, 4))
    assert sparsity_for(view, 36) == 0
    with pytest.raises(BadInput, match="37 parameters: Linear has only 36; take a wider"):
        sparsity_for(view, 37)


def test_tied_tensors_count_once():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x))

    view = describe(Tied(), example=None)
    assert prune(view, sparsity=sparsity_for(view, 16), score="magnitude").kept == 16


def test_another_model_is_counted_without_its_weights():
    known = timm.create_model("resnet18", num_classes=7, in_chans=1)
    args = {"num_classes": 7, "in_chans": 1}
    assert parameters_of("timm:resnet18", args) == sum(p.numel() for p in known.parameters())
    assert parameters_of("torch:torch.nn.Linear", {"in_features": 3, "out_features": 2}) == 8
