"""SynFlow's conservation, what is done where its flow overflows, and settings that would spoil a pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from transformers import MixtralConfig, MixtralForCausalLM

from sigprune.base.errors import BadInput, BadScores
from sigprune.base.registry import MemberSpec
from sigprune.base.rng import generator
from sigprune.base.tensors import Tensors
from sigprune.families.objectives import objectives
from sigprune.families.scores import scores
from sigprune.models.opening import describe
from sigprune.pruning.choose import prune
from sigprune.values.mask import Mask
from sigprune.values.problem import Problem
from sigprune.values.view import View
from tests.support.networks import labelled, mlp, seeded


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
    mask = prune(view, sparsity=0.5, score=MemberSpec("synflow", {"damping": 1.0}))
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


def mobile(activation: type[nn.Module]) -> View:
    """A chain of convolutions with a squeezed gate, and weights large enough to reach any bound."""
    layers = (
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        activation(),
        nn.Conv2d(8, 8, 3, padding=1),
        activation(),
    )
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return describe(seeded(module), example=torch.zeros(1, 3, 8, 8))


class Relu6(nn.Module):
    """The function: nn.ReLU6 calls hardtanh."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu6(x)


def test_bounds_of_activations_do_not_stop_the_flow():
    """ReLU6 and hardtanh pass it on as ReLU does; all weights but the last had none."""
    expected = flow(mobile(nn.ReLU))
    for bounded in (nn.ReLU6, nn.Hardtanh, Relu6):
        for name, values in flow(mobile(bounded)).items():
            torch.testing.assert_close(values, expected[name], rtol=1e-12, atol=0)


class Squeezed(nn.Module):
    """A gate over channels."""

    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.opened = gate
        self.inner, self.gate, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.inner(x * 1000))
        return self.head(x * self.opened(self.gate(x)[..., None, None]).flatten(1))


@pytest.mark.parametrize(
    ("gate", "slope"),
    [(nn.functional.hardsigmoid, 6), (torch.sigmoid, 4), (nn.Sigmoid(), 4), (Tensor.sigmoid, 4)],
)
def test_saturated_gates_have_the_slope_that_they_start_with(gate, slope):
    """R = Σ head (x g) with g = 1: ∂R/∂gate = x head slope."""
    view = describe(seeded(Squeezed(gate)).double(), example=torch.zeros(1, 6))
    sizes = {n: p.abs() for n, p in view.params().items()}
    x = sizes["inner.weight"].sum(1) * 1000 + sizes["inner.bias"]
    assert (
        float((sizes["gate.weight"] @ x + sizes["gate.bias"]).min()) > 40
    )  # no float64 sigmoid has a slope there
    expected = sizes["gate.weight"] * (x * sizes["head.weight"].sum(0) / slope)[:, None] * x
    torch.testing.assert_close(flow(view)["gate.weight"], expected)


class Normed(nn.Module):
    """The input is normalised first and the output last, as in ModernBERT."""

    def __init__(self, norms: tuple[nn.Module, nn.Module]) -> None:
        super().__init__()
        self.first, self.last = norms
        self.inner, self.outer = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.outer(torch.relu(self.inner(self.first(x)))))


NORMS = {
    "layer": lambda: (nn.LayerNorm(6, bias=False), nn.LayerNorm(6)),
    "group": lambda: (nn.GroupNorm(2, 6), nn.GroupNorm(3, 6)),
}


@pytest.mark.parametrize("norms", NORMS.values(), ids=NORMS)
def test_norms_divide_and_subtract_nothing(norms):
    """An all-ones vector minus its mean is zero, and the sum of a normalised vector is a constant."""
    view = describe(seeded(Normed(norms())).double(), example=torch.zeros(1, 6))
    sizes = {n: p.abs() for n, p in view.params().items()}
    first = sizes["first.weight"] + sizes.get("first.bias", 0)
    hidden = sizes["inner.weight"] @ first + sizes["inner.bias"]
    out = sizes["outer.weight"] @ hidden + sizes["outer.bias"]
    groups = out.reshape(3, 2) if norms is NORMS["group"] else out.reshape(1, 6)
    spread = groups.square().mean(1, keepdim=True).sqrt().expand(groups.shape).reshape(6)
    expected = sizes["outer.weight"] * (sizes["last.weight"] / spread)[:, None] * hidden
    torch.testing.assert_close(flow(view)["outer.weight"], expected, rtol=1e-4, atol=0)
    assert all(bool((values > 0).all()) for values in flow(view).values())
