"""SynFlow's conservation, what is done where its flow overflows, and settings that would spoil a pass."""

from __future__ import annotations

import itertools

import pytest
import timm
import torch
from torch import Tensor, nn
from transformers import MixtralConfig, MixtralForCausalLM

from sigprune.base.errors import BadInput, BadScores
from sigprune.base.family import Step
from sigprune.base.seeds import generator
from sigprune.base.tensors import Tensors
from sigprune.families.objectives import objectives
from sigprune.families.scores import scores
from sigprune.values.mask import Mask
from sigprune.values.problem import Problem
from sigprune.values.view import View
from sigprune.verbs.opening import describe
from sigprune.verbs.pruning import prune
from tests.networks import labelled, mlp, seeded


def chain(widths: tuple[int, ...] = (5, 9, 7, 6, 3)) -> nn.Sequential:
    """ReLU layers without biases."""
    layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)]
    return seeded(nn.Sequential(*itertools.chain.from_iterable((m, nn.ReLU()) for m in layers))[:-1])


def problem(view: View, density: float = 1.0, data: list | None = None) -> Problem:
    draws = {n: torch.rand(s, generator=generator(0, "test", n)) for n, s in view.prunable_shapes().items()}
    mask = Mask({n: d <= density for n, d in draws.items()})
    return Problem(view, mask, generator(0, "test", "score"), objectives.get("labels").objective, data)


def flow(view: View, density: float = 1.0, **options: float) -> Tensors:
    return scores.get("synflow").score(problem(view, density), **options)


@pytest.mark.parametrize("density", [1.0, 0.6])
def test_the_flow_is_conserved_by_every_layer_and_every_unit(density):
    """Tanaka et al. 2020, theorems 1 and 2; on masked networks too."""
    ranked = list(flow(describe(chain()), density).values())
    for before, after in itertools.pairwise(ranked):
        torch.testing.assert_close(before.sum(1), after.sum(0), rtol=1e-12, atol=0)
    sums = torch.stack([t.sum() for t in ranked])
    torch.testing.assert_close(sums, sums[:1].expand_as(sums), rtol=1e-12, atol=0)


@pytest.mark.parametrize("damping", [0.5, 1.0])
def test_damping_multiplies_the_scores_of_a_chain_by_one_number(damping):
    plain, damped = (flow(describe(chain()), 0.6, damping=d) for d in (0.0, damping))
    largest = max(plain, key=lambda name: float(plain[name].max()))
    factor = float(damped[largest].max() / plain[largest].max())
    assert factor != pytest.approx(1.0, rel=0.1)
    for name, values in plain.items():
        torch.testing.assert_close(damped[name], values * factor, rtol=1e-12, atol=0)


def test_what_overflows_is_refused_and_damping_mends_it():
    module = chain((5,) * 10)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(1e37)  # in float32; nine of them are beyond float64
    view = describe(module)
    with pytest.raises(
        BadScores, match=r"synflow.*entries are NaN or infinite; the flow .* raise the option damping, now 0"
    ):
        prune(view, sparsity=0.5, score="synflow")
    mask = prune(view, sparsity=0.5, score=Step("synflow", {"damping": 1.0}))
    assert mask.kept == round(mask.total / 2)


@pytest.mark.parametrize("damping", [-0.1, 1.1])
def test_damping_outside_its_range(damping):
    with pytest.raises(BadInput, match=f"0 <= damping <= 1, got {damping}"):
        flow(describe(chain()), damping=damping)


def normalised() -> tuple[View, nn.Sequential]:
    module = nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    seeded(module)
    draw = generator(0, "test", "statistics")
    module[1].running_mean.copy_(30 * torch.randn(6, generator=draw))  # far more than the flow of the ones
    module[1].running_var.copy_(0.5 + torch.rand(6, generator=draw))
    return describe(module), module


def test_stored_means_count_as_absolute():
    """BatchNorm is the scale |γ|/σ and the shift |β| + |γμ|/σ; subtracted, such means would stop the flow."""
    view, (first, norm, _, last) = normalised()
    ranked = flow(view.using("eval"))
    w, v = first.weight.detach().double().abs(), last.weight.detach().double().abs()
    scale = norm.weight.detach().double().abs() / (norm.running_var.double() + norm.eps).sqrt()
    hidden = scale * (w.sum(1) + norm.running_mean.double().abs()) + norm.bias.detach().double().abs()
    torch.testing.assert_close(ranked["0.weight"], w * (scale * v.sum(0))[:, None])
    torch.testing.assert_close(ranked["3.weight"], v * hidden)


def test_statistics_of_the_ones_are_not_used():
    view, module = normalised()
    fresh, batch = flow(view.using("fresh")), flow(view.using("batch"))
    assert all(torch.equal(fresh[n], batch[n]) for n in fresh)
    assert not torch.equal(fresh["3.weight"], flow(view.using("eval"))["3.weight"])
    assert float(module[1].running_mean.abs().max()) > 1, "as it was"


def experts() -> View:
    config = MixtralConfig(
        vocab_size=12, hidden_size=16, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=3, num_experts_per_tok=2, max_position_embeddings=16,
    )  # fmt: skip
    return describe(seeded(MixtralForCausalLM(config)))


def test_experts_are_scored_in_float64():
    """torch multiplies groups in no float64; one by one they give the same, and the setting comes back."""
    view = experts()
    before = view.module.config._experts_implementation
    ranked = flow(view)
    stacked = [name for name in ranked if ".experts." in name]
    assert stacked
    assert all(t.isfinite().all() and t.dtype is torch.float64 for t in ranked.values())
    assert all(ranked[name].any() for name in stacked)
    doubles = {n: t.double() for n, t in view.params().items()}
    with torch.no_grad():
        single, double = view.forward({}, view.example), view.forward(doubles, view.example)
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-5)
    assert view.module.config._experts_implementation == before


@pytest.mark.parametrize("name", ["snip", "force", "grasp", "prospr", "synflow", "ntk_sap"])
def test_checkpointing_of_timm_does_not_compute_again_with_other_weights(name):
    """On a masked network: in the backward pass its blocks would run with the module's own values."""
    module = seeded(timm.create_model("test_vit", num_classes=4, img_size=32))
    view = describe(module)
    data = None if scores.get(name).NEEDS == "nothing" else labelled(view, 2, 1)
    plain = scores.get(name).score(problem(view, 0.5, data))
    module.set_grad_checkpointing(True)
    again = scores.get(name).score(problem(view, 0.5, data))
    assert module.grad_checkpointing is True
    for weight, values in plain.items():
        assert torch.equal(again[weight], values), weight


BY_POSITION = {"random", "ntk_sap"}
"""Scores that draw a number for each place."""


@pytest.mark.parametrize("name", [n for n in scores.names() if n not in BY_POSITION])
def test_hidden_units_have_no_numbers(name):
    """Their order, in the rows of one layer and the columns of the next, is that of the scores."""
    module, twin = seeded(mlp((5, 8, 4))).double(), mlp((5, 8, 4)).double()
    order = torch.randperm(8, generator=generator(0, "test", "order"))
    values = {k: v.clone() for k, v in module.state_dict().items()}
    values["2.weight"] = values["2.weight"][:, order]
    twin.load_state_dict(values | {n: values[n][order] for n in ("0.weight", "0.bias")})

    def ranked(network: nn.Module) -> Tensors:
        view = describe(network)
        data = None if scores.get(name).NEEDS == "nothing" else labelled(view)
        return scores.get(name).score(problem(view, data=data))

    here, there = ranked(module), ranked(twin)
    moved: dict[str, Tensor] = {"0.weight": here["0.weight"][order], "2.weight": here["2.weight"][:, order]}
    for weight, expected in moved.items():
        torch.testing.assert_close(there[weight], expected, rtol=1e-9, atol=1e-15)
