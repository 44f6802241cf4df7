"""The helper of test_members.py tells weights apart by why they have no gradient."""

from __future__ import annotations

import torch
from torch import nn

from sigprune.models.opening import describe
from tests.support.gradients import Pass


class Odd(nn.Module):
    """Two outputs, of which the second is not read; one layer not called, two that are lost on the way."""

    def __init__(self):
        super().__init__()
        for name in ("read", "beside", "uncalled", "lost", "zeroed"):
            setattr(self, name, nn.Linear(3, 3))

    def forward(self, x):
        lost = self.lost(x).argmax().detach()
        return self.read(x) + 0 * self.zeroed(x) + lost, self.beside(x)


def test_weights_are_told_apart():
    view = describe(Odd(), example=torch.ones(1, 3))
    passed = Pass(view)
    assert passed.output.shape == (1, 3)
    assert set(passed.gradients) == {"read.weight", "zeroed.weight"}
    assert passed.apart == {"beside.weight", "uncalled.weight"}
    assert passed.silent(view) == ["lost.weight", "zeroed.weight"]


def test_the_model_stays_as_it_was():
    model = Odd().train()
    before = torch.get_rng_state()
    Pass(describe(model, example=torch.ones(1, 3)))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
