"""Gains of stages: against explicit products, and where a network is broken on purpose."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from sigprune.base.errors import BadInput
from sigprune.base.rng import generator
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe
from sigprune.propagation.gain_profile import profile
from sigprune.propagation.measurement import measure
from sigprune.pruning.choose import apply_
from sigprune.values.mask import Mask
from sigprune.values.operator import jacobian
from tests.support.networks import SmallConv, labelled, mlp, seeded, small_views

WIDTHS = (12, 9, 14, 5)


@pytest.fixture
def linear():
    return describe(seeded(mlp(WIDTHS, activation=None)).double())


def inputs(view, examples: int = 3) -> Tensor:
    return labelled(view, examples)[0][0]


def exact(view) -> list[tuple[float, float]]:
    """(forward, backward) gains of a chain of matrices, from their products."""
    matrices = [p.detach() for p in view.module.parameters() if p.dim() == 2]
    forward = list(itertools.accumulate(matrices, lambda done, m: m @ done))
    backward = [torch.eye(WIDTHS[-1], dtype=torch.float64)]
    for matrix in matrices[:0:-1]:
        backward.append(backward[-1] @ matrix)
    ends = zip(forward, backward[::-1], strict=True)
    return [tuple(float((m.square().sum() / min(m.shape)).sqrt()) for m in pair) for pair in ends]


def test_gains_are_those_of_explicit_products(linear):
    """Probes that span the space make them exact; fewer are within five standard errors."""
    whole = profile(linear, inputs(linear), probes=50)
    for row, (forward, backward) in zip(whole.stages, exact(linear), strict=True):
        assert row.forward == pytest.approx(forward, rel=1e-12)
        assert row.backward == pytest.approx(backward, rel=1e-12)
        assert row.forward_error == row.backward_error == 0
    for seed in range(5):
        some = profile(linear, inputs(linear), probes=3, seed=seed)
        for row, (forward, backward) in zip(some.stages, exact(linear), strict=True):
            assert abs(row.forward - forward) <= 5 * row.forward_error + 1e-12
            assert abs(row.backward - backward) <= 5 * row.backward_error + 1e-12
            assert row.forward_error < 0.3 * forward


def test_standard_errors_are_those_of_repeated_draws(linear):
    runs = [profile(linear, inputs(linear), probes=4, seed=seed).stages[1] for seed in range(60)]
    values = torch.tensor([run.forward for run in runs])
    told = torch.tensor([run.forward_error for run in runs]).square().mean().sqrt()
    assert 0.7 < float(values.std() / told) < 1.4


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_the_last_stage_has_the_root_mean_square_singular_value(name):
    view = small_views()[name]
    batch = inputs(view)
    last = profile(view, batch, probes=10_000).stages[-1]
    summary = measure(jacobian(view, batch)).summary()
    assert last.forward == pytest.approx(summary.mean_square**0.5, rel=1e-5)
    assert last.backward == pytest.approx(1.0, rel=1e-5)


def test_activations_are_root_mean_squares():
    view = small_views()["conv"]
    batch = inputs(view)
    rows = {row.stage: row for row in profile(view, batch, probes=1).stages}
    with torch.no_grad():
        first = view.module.conv1(batch)
    assert rows["conv1"].activation == pytest.approx(float(first.square().mean().sqrt()))
    assert math.isnan(rows["conv1"].forward_error)


@pytest.mark.parametrize(("factor", "verb"), [(1e-6, "falls"), (1e6, "rises")])
def test_a_scaled_layer_is_named(factor, verb):
    view = describe(mlp((16,) * 6))
    reinit_(view)
    with torch.no_grad():
        view.module[4].weight.mul_(factor)
    change = (
        profile(view, 1e-3 * inputs(view)).weakest
        if factor < 1
        else profile(view, 1e-9 * inputs(view)).weakest
    )
    assert change.stage == "4"
    assert f"at 4 the forward gain {verb} from " in str(change)


def test_a_masked_out_layer_is_named():
    view = describe(seeded(SmallConv()), example=torch.zeros(1, 3, 8, 8))
    mask = Mask.dense(view.prunable_shapes())
    mask.keep["conv2.weight"][:] = False
    apply_(view, mask)
    found = profile(view, inputs(view))
    assert found.weakest.stage == "conv2"
    assert str(found.weakest).endswith("to 0")
    assert [row.forward == 0 for row in found.stages] == [False, True, True]
    assert [row.backward == 0 for row in found.stages] == [True, False, False]


def test_what_is_not_finite_is_named():
    view = describe(mlp((8, 8, 8, 8), nn.ReLU).double())
    with torch.no_grad():
        view.module[2].weight.fill_(1e308)
        view.module[0].weight.fill_(1.0)
    found = profile(view, torch.ones(2, 8, dtype=torch.float64))
    assert found.weakest.stage == "2"


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared, self.idle, self.last = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shared(self.shared(x)))


def test_stages_that_cannot_be_read_are_left_out_with_a_note():
    found = profile(describe(Twice(), example=torch.zeros(1, 4)), torch.randn(2, 4))
    assert [row.stage for row in found.stages] == ["last"]
    assert "called 2 times" in found.notes["shared"]
    assert found.notes["idle"] == "it does not run"


class Once(torch.autograd.Function):
    """Has no forward-mode derivative."""

    @staticmethod
    def forward(ctx, x):
        del ctx
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        del ctx
        return 2 * g


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(Once.apply(self.a(x))))


def test_without_forward_mode_the_backward_gains_tell():
    view = describe(Doubled(), example=torch.zeros(1, 4))
    reinit_(view)
    with torch.no_grad():
        view.module.b.weight.mul_(1e-5)
    found = profile(view, torch.randn(2, 4))
    assert all(math.isnan(row.forward) for row in found.stages)
    assert [row.backward for row in found.stages] == pytest.approx([2e-5, 1.0, 1.0])
    assert "only backward gains are known" in found.notes["forward"]
    assert (found.weakest.stage, found.weakest.direction) == ("b", "backward")


def test_equal_seeds_give_equal_profiles_and_nothing_is_left_behind():
    model = seeded(SmallConv()).train()
    view = describe(model, example=torch.zeros(1, 3, 8, 8))
    state = torch.get_rng_state()
    first, again = (profile(view, inputs(view)) for _ in range(2))
    assert first == again
    assert profile(view, inputs(view), seed=1) != first
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_an_expanded_image_is_a_valid_point():
    """A greyscale image repeated over channels shares memory."""
    view = small_views()["conv"]
    grey = torch.randn(2, 1, 8, 8, generator=generator(0, "test", "grey"))
    assert profile(view, grey.expand(2, 3, 8, 8)) == profile(view, grey.repeat(1, 3, 1, 1))
    vectors = torch.ones(1, 2, 192)
    spread, copied = (
        jacobian(view, x).matmat(vectors) for x in (grey.expand(2, 3, 8, 8), grey.repeat(1, 3, 1, 1))
    )
    assert torch.equal(spread, copied)


def test_bad_input_is_said(linear):
    with pytest.raises(BadInput, match=r"holds no example, its shape is \(0, 12\)"):
        profile(linear, torch.zeros(0, 12))
    with pytest.raises(BadInput, match="an example and a probe, got 2 and 0"):
        profile(linear, torch.zeros(2, 12), probes=0)
    with torch.no_grad():
        linear.module[0].weight[0, 0] = math.nan
    with pytest.raises(BadInput, match=r"the parameter 0\.weight holds NaN"):
        profile(linear, torch.zeros(2, 12))


@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_a_memory_bound_takes_examples_in_parts_and_changes_nothing(network):
    view = small_views()[network].using("eval")
    examples = inputs(view, 5)
    whole, parts = profile(view, examples, probes=3), profile(view, examples, probes=3, max_memory_gib=1e-9)
    assert [row.stage for row in parts.stages] == [row.stage for row in whole.stages]
    for one, other in zip(parts.stages, whole.stages, strict=True):
        assert one.forward == pytest.approx(other.forward, rel=1e-5)
        assert one.forward_error == pytest.approx(other.forward_error, rel=1e-4, abs=1e-9)
        assert one.backward == pytest.approx(other.backward, rel=1e-5)
        assert one.activation == pytest.approx(other.activation, rel=1e-5)
