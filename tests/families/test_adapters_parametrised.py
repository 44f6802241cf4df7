"""Weights behind parametrisations: known ones are weights, others are named and never left out in silence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import sigprune
from sigprune.base.errors import BadInput
from sigprune.models.opening import describe
from sigprune.values.mask import Mask
from tests.support.networks import mlp, seeded

X, Y = torch.linspace(-1, 1, 36).reshape(3, 12), torch.tensor([0, 1, 2])


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Clipped(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.clamp(-1, 1)


def own(module: nn.Module) -> nn.Module:
    parametrize.register_parametrization(module[0], "weight", Doubled())
    return module


def several(module: nn.Module) -> nn.Module:
    parametrizations.weight_norm(module[0])
    parametrize.register_parametrization(module[0], "weight", Clipped())
    return module


def orthogonal(module: nn.Module) -> nn.Module:
    parametrizations.orthogonal(module[0])
    return module


def masked(module: nn.Module) -> nn.Module:
    prune.l1_unstructured(module[0], "weight", amount=0.5)
    return module


def deeper(module: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Sequential(own(module)), nn.Identity())


UNKNOWN = {
    "own": (own, ("0.parametrizations.weight.original",), "the weight of 0 (Doubled)"),
    "several": (
        several,
        ("0.parametrizations.weight.original1",),
        "the weight of 0 (_WeightNorm+Clipped)",
    ),
    "orthogonal": (orthogonal, ("0.parametrizations.weight.original",), "the weight of 0 (_Orthogonal)"),
    "torch.nn.utils.prune": (masked, ("0.weight_orig",), "the weight of 0 (torch.nn.utils.prune)"),
    "inside": (deeper, ("0.0.0.parametrizations.weight.original",), "the weight of 0.0.0 (Doubled)"),
}
VERBS = {
    "prune": lambda view: sigprune.prune(view, sparsity=0.5, score="magnitude"),
    "reinit_": sigprune.reinit_,
    "calibrate_": lambda view: sigprune.calibrate_(view, X, target=0.5),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", UNKNOWN)
def test_they_are_named_and_the_rest_is_not_treated_alone(kind, verb):
    wrap, names, where = UNKNOWN[kind]
    module = wrap(seeded(mlp()))
    before = {name: p.clone() for name, p in module.named_parameters()}
    view = describe(module)
    assert view.parametrised() == names
    assert {view.skipped[name] for name in names} == {"parametrised"}
    with pytest.raises(BadInput) as caught:
        VERBS[verb](view)
    assert f"first {where}" in str(caught.value)
    assert f"exclude=({names[0]!r},)" in str(caught.value)
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())
    VERBS[verb](describe(module, exclude=names))  # who names them may have the rest alone


def test_part_of_them_excluded_is_not_all():
    module = own(seeded(mlp()))
    parametrize.register_parametrization(module[2], "weight", Doubled())
    view = describe(module, exclude=("0.parametrizations.*",))
    assert view.parametrised() == ("2.parametrizations.weight.original",)
    assert describe(module, include=("head",)).parametrised() == ()  # what is wanted was named


def test_reinit_that_only_opens_gates_touches_no_weight():
    assert sigprune.reinit_(describe(own(seeded(mlp()))), None) == ()


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_known_ones_are_weights(norm):
    module = seeded(mlp())
    norm(module[0])
    view = describe(module)
    assert view.parametrised() == ()
    assert len(view.weights) == 3
    VERBS["prune"](view)


def test_a_parametrised_bias_hides_no_weight():
    module = seeded(mlp())
    parametrize.register_parametrization(module[0], "bias", Doubled())
    assert describe(module).parametrised() == ()


def test_masks_of_torch_are_taken_over():
    """Whatever chose them; then the model is plain, and what was zero stays so."""
    module = seeded(mlp())
    prune.global_unstructured(
        [(module[0], "weight"), (module[2], "weight")], prune.L1Unstructured, amount=0.5
    )
    prune.random_structured(module[4], "weight", amount=2, dim=1)
    prune.random_unstructured(module[4], "bias", amount=1)
    used = {f"{i}.weight": module[i].weight.detach().clone() for i in (0, 2, 4)}
    mask = Mask.from_torch_prune(module)
    for index in (0, 2, 4):
        prune.remove(module[index], "weight")
    prune.remove(module[4], "bias")
    assert mask.counts()["4.bias"] == (4, 5)
    for name, tensor in used.items():
        assert torch.equal(mask.keep[name], tensor != 0)
    view = describe(module, biases=True)
    assert view.parametrised() == ()
    mask.check(view.params())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with sigprune.hold(view, mask, optimizer):
        nn.functional.cross_entropy(module(X), Y).backward()
        optimizer.step()


def test_where_torch_pruned_nothing_there_is_no_mask():
    with pytest.raises(BadInput, match=r"Sequential: expected parameters that torch\.nn\.utils\.prune"):
        Mask.from_torch_prune(mlp())


def test_second_names_of_tied_parameters_are_among_the_skipped():
    module = seeded(mlp())
    module[2].bias = module[0].bias
    module.norm = nn.LayerNorm(16)
    module.other = module.norm
    view = describe(module, example=X)
    every = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    assert {name for w in view.weights for name in (w.name, *w.tied)} | view.skipped.keys() == every
    assert view.skipped["2.bias"] == "bias"
    assert view.skipped["other.weight"] == "norm scale"
    assert "2.bias" not in view.reasons()
    assert len(view.reasons()) == 4
    sigprune.reinit_(view)
    assert not module[2].bias.any()
