"""Kept entries on input-output paths: against naive booleans, by hand, and in networks of the hubs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from sigprune.base.errors import BadInput
from sigprune.base.rng import generator
from sigprune.base.tensors import digest
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe
from sigprune.propagation.reachability import dead_units, effective
from sigprune.pruning.choose import prune
from sigprune.values.batch import Batch
from sigprune.values.mask import Mask
from sigprune.values.view import View
from tests.reference.paths import Layer, chain, residual
from tests.support.networks import mlp, seeded
from tests.support.shrinking import shrunk


def random_mask(view: View, share: float, seed: int) -> Mask:
    """Keeps about that share of every weight."""
    draw = generator(seed, "test", "mask")
    return Mask({n: torch.rand(s, generator=draw) < share for n, s in view.prunable_shapes().items()})


class JsonValue(nn.Module):
    """Convolutions with stride, padding and groups, and maximum pooling over windows that overlap."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 6, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.two = nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=2)
        self.three = nn.Conv2d(6, 3, 3, padding=1)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.one(x)))
        return self.three(self.act(self.two(x))).mean((2, 3))


class Residual(nn.Module):
    """One block with a convolution on its shortcut, BatchNorm that is batch-free, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.one = nn.Conv2d(4, 5, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.two = nn.Conv2d(5, 4, 3, padding=1, bias=False)
        self.short = nn.Conv2d(4, 4, 1, stride=2, bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu_(self.two(torch.relu(self.norm(self.one(x)))) + self.short(x))
        return self.head(x.amax((2, 3)))


def layer(keep: Tensor, stride: int = 1, padding: int = 0, groups: int = 1) -> Layer:
    return Layer(keep.reshape(*keep.shape, *[1] * (4 - keep.dim())).numpy(), stride, padding, groups)


def same(found: Mask, expected: list[np.ndarray]) -> None:
    for (name, keep), naive in zip(found.keep.items(), expected, strict=True):
        assert torch.equal(keep, torch.from_numpy(naive).reshape(keep.shape)), name


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Hardswish])
def test_fully_connected(seed, activation):
    view = describe(mlp((5, 7, 6, 7, 4), activation))
    mask = random_mask(view, (0.1, 0.2, 0.3, 0.6)[seed], seed)
    found = effective(view, mask)
    same(found, chain([layer(keep) for keep in mask.keep.values()], (5, 1, 1)))
    assert found.kept < mask.kept or seed == 3


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.GELU])
def test_convolutions_with_pooling(seed, activation):
    view = describe(JsonValue(activation), example=torch.zeros(1, 2, 7, 9))
    mask = random_mask(view, (0.03, 0.06, 0.12, 0.3)[seed], seed)
    one, two, three = mask.keep.values()
    pool = Layer(np.ones((6, 1, 3, 3), dtype=bool), 2, 1, groups=6)
    layers = [layer(one, padding=1), pool, layer(two, 2, 1, groups=2), layer(three, padding=1)]
    first, _, second, third = chain(layers, (2, 7, 9))
    found = effective(view, mask)
    same(found, [first, second, third])
    assert found.kept < mask.kept or seed == 3


@pytest.mark.parametrize("seed", range(4))
def test_a_residual_block_with_a_masked_shortcut(seed):
    view = describe(Residual(), example=torch.zeros(1, 1, 6, 6))
    mask = random_mask(view, (0.08, 0.15, 0.25, 0.5)[seed], seed)
    stem, one, two, short, head = mask.keep.values()
    pool = Layer(np.ones((4, 1, 3, 3), dtype=bool), groups=4)
    found = residual(
        layer(stem, padding=1), [layer(one, 2, 1), layer(two, 1, 1)], layer(short, 2), [pool, layer(head)],
        (1, 6, 6),
    )  # fmt: skip
    same(effective(view, mask), [*found[:4], found[5]])


def test_a_tap_that_only_meets_padding_is_on_no_path():
    view = describe(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1)), example=torch.zeros(1, 1, 1, 1))
    found = effective(view, Mask.dense(view.prunable_shapes())).keep["0.weight"]
    assert found.nonzero().tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(1)])
def test_taps_that_reach_only_what_loses_a_maximum_count(pool):
    """Each of four places uses four of the nine taps, and any of the four may be the largest."""
    layers = nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), pool, nn.Flatten(), nn.Linear(1, 2)
    view = describe(nn.Sequential(*layers), example=torch.zeros(1, 1, 2, 2))
    found = effective(view, Mask.dense(view.prunable_shapes()))
    assert found.kept == found.total


def test_a_dangling_entry_by_hand():
    """Input 0 -> unit 0 -> output; input 1 -> unit 1 -> nothing; nothing -> unit 2 -> output."""
    view = describe(mlp((2, 3, 1), nn.ReLU))
    with torch.no_grad():
        view.module[0].bias.fill_(1.0)  # what a bias alone sends is no signal of the input
    first = torch.tensor([[True, False], [False, True], [False, False]])
    mask = Mask({"0.weight": first, "2.weight": torch.tensor([[True, False, True]])})
    found = effective(view, mask)
    assert found.keep["0.weight"].nonzero().tolist() == [[0, 0]]
    assert found.keep["2.weight"].tolist() == [[True, False, False]]
    units = dead_units(view, found)
    assert dict(units.dead) == {"0.weight": (2, 3), "2.weight": (0, 1)}
    assert units.share == 0.5


def test_relabelling_hidden_units_relabels_the_entries():
    view = describe(mlp((6, 8, 5), nn.ReLU))
    mask = random_mask(view, 0.2, 1)
    order = torch.randperm(8, generator=generator(0, "test", "order"))
    first, last = mask.keep.values()
    moved = Mask({"0.weight": first[order], "2.weight": last[:, order]})
    found, again = effective(view, mask), effective(view, moved)
    assert torch.equal(again.keep["0.weight"], found.keep["0.weight"][order])
    assert torch.equal(again.keep["2.weight"], found.keep["2.weight"][:, order])


def test_biases_count_where_their_unit_reaches_the_output():
    view = describe(mlp((2, 3, 1), nn.ReLU)).select(biases=True)
    mask = Mask({
        "0.weight": torch.zeros(3, 2, dtype=torch.bool),
        "2.weight": torch.tensor([[True, False, True]]),
        "0.bias": torch.tensor([True, True, False]),
        "2.bias": torch.tensor([True]),
    })
    found = effective(view, mask)
    assert {n: t.tolist() for n, t in found.keep.items() if "bias" in n} == {
        "0.bias": [True, False, False],
        "2.bias": [True],
    }
    assert not found.keep["2.weight"].any()


class Gated(nn.Module):
    """value(x) · act(gate(x)): a gate that is always zero closes its unit, one at a constant does not."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.value, self.gate, self.out = (nn.Linear(3, 3, bias=False) for _ in range(3))
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.value(x) * self.act(self.gate(x)))


@pytest.mark.parametrize(("act", "open_"), [(nn.SiLU(), False), (nn.Sigmoid(), True)])
def test_a_gate_without_entries(act, open_):
    view = describe(Gated(act), example=torch.zeros(1, 3))
    mask = Mask.dense(view.prunable_shapes())
    mask.keep["gate.weight"][1] = False
    found = effective(view, mask)
    assert found.keep["value.weight"].all(1).tolist() == [True, open_, True]
    assert found.keep["gate.weight"].all(1).tolist() == [True, False, True]


def test_attention_without_queries_needs_no_keys():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    view = describe(model, example=torch.zeros(1, 5, 8))
    mask = Mask.dense(view.prunable_shapes())
    name = next(n for n in mask.keep if "in_proj" in n)
    mask.keep[name][:8] = False
    mask.keep["linear2.weight"][:, 3] = False
    found = effective(view, mask)
    with_bias = found.keep[name].any(1)  # a query's bias still asks
    assert with_bias.tolist() == [False] * 8 + [True] * 16
    assert found.keep["linear1.weight"].any(1).tolist() == [i != 3 for i in range(16)]


NETWORKS = {
    "timm": ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_nfnet", "test_mambaout"],
    "transformers": ["vit", "gpt2", "llama", "mixtral", "swinv2"],
}


def views() -> list:
    return [pytest.param(library, name, id=name) for library, names in NETWORKS.items() for name in names]


def opened(library: str, name: str) -> View:
    module = timm.create_model(name) if library == "timm" else shrunk(name)
    if name == "mixtral":
        module.set_experts_implementation("eager")  # the other one knows no float64
    view = describe(module)
    reinit_(view)
    return view


def inputs(view: View, seed: int) -> dict[str, Tensor]:
    batch = view.example if view.embed is None else view.embed(view.example)
    draw = generator(seed, "test", "inputs")
    return {
        k: torch.randn(x.shape, generator=draw, dtype=torch.float64) if x.is_floating_point() else x
        for k, x in batch.inputs.items()
    }


@pytest.mark.parametrize(("library", "name"), views())
def test_whatever_has_a_gradient_is_on_a_path(library, name):
    """With nothing removed: what the ordinary network is sensitive to is never called ineffective."""
    view = opened(library, name)
    found = effective(view, Mask.dense(view.prunable_shapes()))
    leaves = {n: p.double().requires_grad_() for n, p in view.params().items()}
    output = view.forward(leaves, Batch(inputs(view, 0)))
    weigh = torch.randn(output.shape, generator=generator(0, "test", "weigh"), dtype=torch.float64)
    grads = torch.autograd.grad((output * weigh).sum(), list(leaves.values()), allow_unused=True)
    felt = {n: g for n, g in zip(leaves, grads, strict=True) if g is not None and n in found.keep}
    largest = max(float(g.abs().max()) for g in felt.values())
    for weight, g in felt.items():
        assert not ((g.abs() > 1e-12 * largest) & ~found.keep[weight]).any(), weight


@pytest.mark.parametrize(("library", "name"), views())
def test_what_is_on_no_path_can_be_removed(library, name):
    """The ordinary network (with biases at zero) is the same function without it."""
    view = opened(library, name)
    mask = prune(view, sparsity=0.97, score="random", seed=1)
    found = effective(view, mask)
    assert all(bool((keep <= mask.keep[n]).all()) for n, keep in found.keep.items())
    outputs = []
    for chosen in (mask, found):
        params = {n: p.double() for n, p in view.params().items()}
        if any(w.standardised for w in view.weights):
            return  # zeros do not stay zeros: no mask is the same function
        chosen.apply_({n: params[n] for n in chosen.keep})
        with torch.no_grad():
            outputs.append([view.forward(params, Batch(inputs(view, seed))) for seed in (0, 1)])
    (a, b), (c, d) = outputs
    torch.testing.assert_close(a - b, c - d, rtol=1e-9, atol=1e-12)


def test_experts_multiplied_in_groups():
    """A hidden unit without outgoing entries is on no path, in experts that a token was sent to."""
    view = describe(shrunk("mixtral"))
    mask = Mask.dense(view.prunable_shapes())
    down = next(n for n in mask.keep if n.endswith("down_proj"))
    mask.keep[down][:, :, 0] = False
    found = effective(view, mask)
    up = found.keep[down.replace("down_proj", "gate_up_proj")].any(2)
    hidden = up.shape[1] // 2
    decided = ~up.all(1)
    assert decided.any()
    rows = [i not in {0, hidden} for i in range(2 * hidden)]
    assert all(expert.tolist() == rows for expert in up[decided])


def test_the_model_and_the_random_state_are_left_as_found():
    model = seeded(Residual()).train()
    view = describe(model, example=torch.zeros(1, 1, 6, 6))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    effective(view, Mask.dense(view.prunable_shapes()))
    assert digest(before) == digest(model.state_dict())
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


class Cut(torch.autograd.Function):
    """Has no forward-mode derivative."""

    @staticmethod
    def forward(ctx, x):
        del ctx
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        del ctx
        return g


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return Cut.apply(self.fc(x))


def test_what_cannot_be_followed_is_said():
    view = describe(Custom(), example=torch.zeros(1, 3))
    with pytest.raises(BadInput, match=r"the paths of Custom cannot be followed: .*jvp"):
        effective(view, Mask.dense(view.prunable_shapes()))


def test_a_deep_network_neither_overflows_nor_underflows():
    view = describe(mlp((20,) * 200, nn.ReLU))
    found = effective(view, Mask.dense(view.prunable_shapes()))
    assert found.kept == found.total
