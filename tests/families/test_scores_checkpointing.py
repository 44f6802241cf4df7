"""Activation checkpointing changes no score, no Jacobian and no profile; where it would, it is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.utils.checkpoint import checkpoint

from sigprune.base.errors import UnsupportedModel
from sigprune.base.tensors import Tensors
from sigprune.families.scores import scores
from sigprune.models.opening import describe
from sigprune.propagation.gain_profile import profile
from sigprune.pruning.scorer import Scorer
from sigprune.values.mask import Mask
from sigprune.values.operator import jacobian
from sigprune.values.view import View
from tests.support.networks import labelled, seeded

FIRST_ORDER = ("snip", "snip_it", "force", "synflow")
SECOND_ORDER = ("grasp", "prospr", "ntk_sap")


class Cube(torch.autograd.Function):
    """Saves a tensor of its own, outside of every function of torch."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], _output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradient

    @staticmethod
    def jvp(ctx, tangent: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * tangent


Run = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]


def plainly(part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return part(x)


def without_reentry(part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return checkpoint(part, x, use_reentrant=False)


def nested(part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return checkpoint(lambda y: without_reentry(part, y), x, use_reentrant=False)


def with_reentry(part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return checkpoint(part, x, use_reentrant=True)


class Again(torch.autograd.Function):
    """Runs a part of a network again in the backward pass, as fairscale does."""

    @staticmethod
    def forward(ctx, part: Callable[[Tensor], Tensor], _dummy: Tensor, x: Tensor) -> Tensor:
        ctx.part = part
        ctx.save_for_backward(x)
        with torch.no_grad():
            return part(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, None, Tensor | None]:
        if not torch.autograd._is_checkpoint_valid():
            raise RuntimeError("Checkpointing is not compatible with .grad()")
        x = ctx.saved_tensors[0].detach().requires_grad_(ctx.saved_tensors[0].requires_grad)
        with torch.enable_grad():
            output = ctx.part(x)
        torch.autograd.backward(output, gradient)
        return None, None, x.grad


def again(part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return Again.apply(part, torch.zeros(0, requires_grad=True), x)


RECOMPUTING = {"without_reentry": without_reentry, "nested": nested}
HIDING = {"with_reentry": with_reentry, "again": again}


class Block(nn.Module):
    """A residual branch with a norm, weights called as modules and as matrices."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.norm, self.inner, self.outer = nn.BatchNorm1d(6), nn.Linear(6, 9), nn.Linear(9, 6)

    def branch(self, x: Tensor) -> Tensor:
        x = nn.functional.dropout(torch.tanh(self.inner(self.norm(x))), 0.5, self.training)
        return torch.addmm(self.outer.bias, Cube.apply(x), self.outer.weight.t())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.run(self.branch, x)


class Blocks(nn.Module):
    """Two blocks, the first of which is given the input of the network, and a classifier."""

    def __init__(self, run: Run = plainly) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(run), Block(run))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


def view_of(run: Run) -> View:
    module = seeded(Blocks(run)).double().train()
    module.blocks[0].norm.running_mean.fill_(3.0)  # what a second run would meet in the module as it is
    return describe(module, example=torch.zeros(1, 6))


def mask_of(view: View) -> Mask:
    """Some entries are gone already, so that the module's own values are the wrong ones."""
    draws = torch.Generator().manual_seed(0)
    return Mask({n: torch.rand(s, generator=draws) < 0.7 for n, s in view.prunable_shapes().items()})


def scored(name: str, view: View) -> Tensors:
    data = None if scores.get(name).NEEDS == "nothing" else labelled(view, 8, 5)
    return Scorer.of(view, name, "labels", 0)(mask_of(view), data, "0")


@pytest.mark.parametrize("run", RECOMPUTING.values(), ids=RECOMPUTING)
@pytest.mark.parametrize("name", scores.names())
def test_scores_are_those_without_checkpointing(name, run):
    expected, found = scored(name, view_of(plainly)), scored(name, view_of(run))
    assert all(bool(t.any()) for t in expected.values())
    for key, values in expected.items():
        torch.testing.assert_close(found[key], values, rtol=0, atol=0)


@pytest.mark.parametrize("run", HIDING.values(), ids=HIDING)
@pytest.mark.parametrize("name", [*FIRST_ORDER, "magnitude", "random"])
def test_first_derivatives_are_those_without_checkpointing(name, run):
    """Also those of the block that is given the input of the network, which needs no gradient."""
    expected, found = scored(name, view_of(plainly)), scored(name, view_of(run))
    for key, values in expected.items():
        torch.testing.assert_close(found[key], values, rtol=0, atol=0)


@pytest.mark.parametrize("run", HIDING.values(), ids=HIDING)
@pytest.mark.parametrize("name", SECOND_ORDER)
def test_other_derivatives_are_refused_where_the_network_hides_them(name, run):
    with pytest.raises(UnsupportedModel, match=r"runs blocks\.0\.norm\.weight again .*use_reentrant=False$"):
        scored(name, view_of(run))


@pytest.mark.parametrize("run", HIDING.values(), ids=HIDING)
def test_inputs_are_observed_or_asked_for(run):
    """Under no_grad nothing tells that a transposed weight is one."""
    with pytest.raises(UnsupportedModel, match=r"no input of blocks\.0\.outer\.weight was observed"):
        scored("wanda", view_of(run))


def test_every_score_is_tried_with_parts_that_run_again():
    assert {*FIRST_ORDER, *SECOND_ORDER, "magnitude", "random", "wanda"} == {*scores.names()}


@pytest.mark.parametrize("name", ["snip", "synflow"])
@pytest.mark.parametrize("run", [*RECOMPUTING.values(), *HIDING.values()], ids=[*RECOMPUTING, *HIDING])
def test_gradients_and_modes_stay_as_they_were(name, run):
    view = view_of(run)
    before = {n: torch.full_like(p, 2.0) for n, p in view.module.named_parameters()}
    for n, parameter in view.module.named_parameters():
        parameter.grad = before[n].clone()
    state = copy.deepcopy(view.module.state_dict())
    scored(name, view)
    assert all(torch.equal(p.grad, before[n]) for n, p in view.module.named_parameters())
    assert all(torch.equal(t, state[n]) for n, t in view.module.state_dict().items())
    assert all(m.training for m in view.module.modules())


@pytest.mark.parametrize("kind", [*CheckpointImpl])
def test_wrappers_of_torch_change_nothing(kind):
    plain, wrapped = view_of(plainly), view_of(plainly).module
    wrapped.blocks[1] = checkpoint_wrapper(wrapped.blocks[1], kind)
    view = describe(wrapped, example=torch.zeros(1, 6))
    data = labelled(plain, 8, 5)
    for name in FIRST_ORDER if kind is CheckpointImpl.REENTRANT else (*FIRST_ORDER, *SECOND_ORDER):
        ranked = [
            Scorer.of(v, name, "labels", 0)(Mask.dense(v.prunable_shapes()), data, "0") for v in (plain, view)
        ]
        for expected, found in zip(ranked[0].values(), ranked[1].values(), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def halved(view: View) -> Tensors:
    return {name: p / 2 for name, p in view.params().items()}


@pytest.mark.parametrize("run", RECOMPUTING.values(), ids=RECOMPUTING)
def test_jacobians_are_those_without_checkpointing(run):
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    plain, other = (jacobian(v, x, params=halved(v)) for v in (view_of(plainly), view_of(run)))
    vectors, cotangents = torch.eye(6)[:, None].expand(6, 3, 6), torch.eye(4)[:, None].expand(4, 3, 4)
    for _ in range(2):
        expected = plain.matmat(vectors.double())
        torch.testing.assert_close(other.matmat(vectors.double()), expected, rtol=1e-12, atol=1e-14)
        assert torch.equal(other.rmatmat(cotangents.double()), plain.rmatmat(cotangents.double()))
    assert bool(plain.matmat(vectors.double()).any())


@pytest.mark.parametrize("run", RECOMPUTING.values(), ids=RECOMPUTING)
def test_profiles_are_those_without_checkpointing(run):
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    plain, other = (profile(v, x, probes=2) for v in (view_of(plainly), view_of(run)))
    if other.notes and hasattr(torch.utils.checkpoint, "_NoopSaveInputs"):  # of older versions of torch
        assert "no forward-mode derivative" in str(other.notes)
        plain, other = (
            [(stage.stage, stage.backward, stage.activation) for stage in found.stages]
            for found in (plain, other)
        )
    assert other == plain


@pytest.mark.parametrize("run", HIDING.values(), ids=HIDING)
@pytest.mark.parametrize("measure", [jacobian, profile])
def test_jacobians_are_refused_where_the_network_hides_them(measure, run):
    with pytest.raises(UnsupportedModel, match="switch checkpointing off"):
        measure(view_of(run), torch.randn(3, 6))
