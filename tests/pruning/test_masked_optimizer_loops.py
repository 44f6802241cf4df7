"""Loops that do more than step one optimizer: several, other parameters, gradients by hand, shards."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim import SGD, Adam

from sigprune import apply_, prune
from sigprune.base.errors import BadInput, MaskViolated
from sigprune.models.opening import describe
from sigprune.pruning.masked_optimizer import UnmaskedGradient, hold
from sigprune.values.mask import Mask
from sigprune.values.view import View
from tests.pruning.test_masked_optimizer import hooks_left, random_mask, removed
from tests.support.networks import labelled, mlp, seeded

NAME = "0.weight"


@pytest.fixture
def view() -> View:
    return describe(seeded(mlp()))


@pytest.fixture
def mask(view: View) -> Mask:
    return random_mask(view)


def backward(module: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    nn.functional.cross_entropy(module(batch[0]), batch[1]).backward()


def reference(module: nn.Module, mask: Mask, batches: list, *, clip: float, frozen_until: int = 0) -> dict:
    """Every line written out: mask the gradients, clip, momentum and step, mask the weights; in float64."""
    weights = {n: p.detach().double().clone() for n, p in module.named_parameters()}
    momentum: dict[str, Tensor] = {}
    for name, keep in mask.keep.items():
        weights[name] *= keep
    for number, (x, y) in enumerate(batches):
        leaves = {n: w.clone().requires_grad_() for n, w in weights.items()}
        loss = nn.functional.cross_entropy(torch.func.functional_call(module, leaves, (x.double(),)), y)
        trained = [n for n in leaves if n != NAME or number >= frozen_until]
        grads = dict(zip(trained, torch.autograd.grad(loss, [leaves[n] for n in trained]), strict=True))
        for name, keep in mask.keep.items():
            if name in grads:
                grads[name] = grads[name] * keep
        norm = torch.stack([g.norm() for g in grads.values()]).norm()
        for name, g in grads.items():
            momentum[name] = momentum.get(name, 0) * 0.9 + g * min(1.0, clip / (float(norm) + 1e-6))
            weights[name] = weights[name] - 0.1 * momentum[name]
    return weights


def assert_as(module: nn.Module, expected: dict) -> None:
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name].float(), rtol=1e-4, atol=1e-6)


def test_a_weight_that_is_unfrozen_inside_has_its_gradient_masked(view, mask):
    """So that clipping by norm does not see what is removed: kept entries are those of the reference."""
    batches = labelled(view, batches=4)
    expected = reference(copy.deepcopy(view.module).double(), mask, batches, clip=0.05, frozen_until=2)
    weight = view.module.get_parameter(NAME)
    weight.requires_grad = False
    optimizer = SGD(view.module.parameters(), lr=0.1, momentum=0.9)
    with hold(view, mask, optimizer):
        assert not weight.requires_grad
        for number, batch in enumerate(batches):
            weight.requires_grad = number >= 2
            optimizer.zero_grad()
            backward(view.module, batch)
            nn.utils.clip_grad_norm_(view.module.parameters(), 0.05)
            optimizer.step()
    assert_as(view.module, expected)
    assert hooks_left(view.module, optimizer) == 0


def test_gradients_set_by_hand_are_masked_before_the_step(view, mask):
    """Without clipping all is well but for a warning; masked first, as it says, also with clipping."""
    batches = labelled(view, batches=3)
    expected = reference(copy.deepcopy(view.module).double(), mask, batches, clip=1e9)
    optimizer = SGD(view.module.parameters(), lr=0.1, momentum=0.9)
    with pytest.warns(
        UnmaskedGradient, match=r"0\.weight: its gradient was set by hand.*mask\.apply_"
    ) as seen:
        by_hand(view, mask, optimizer, batches, clip=1e9, masked=False)
    assert len(seen) == 1
    assert_as(view.module, expected)


def test_gradients_masked_by_hand_may_be_clipped(view, mask):
    batches = labelled(view, batches=3)
    expected = reference(copy.deepcopy(view.module).double(), mask, batches, clip=0.05)
    optimizer = SGD(view.module.parameters(), lr=0.1, momentum=0.9)
    by_hand(view, mask, optimizer, batches, clip=0.05, masked=True)
    assert_as(view.module, expected)


def by_hand(view: View, mask: Mask, optimizer: SGD, batches: list, *, clip: float, masked: bool) -> None:
    parameters = dict(view.module.named_parameters())
    with hold(view, mask, optimizer):
        for x, y in batches:
            loss = nn.functional.cross_entropy(view.module(x), y)
            for parameter, gradient in zip(
                parameters.values(), torch.autograd.grad(loss, list(parameters.values())), strict=True
            ):
                parameter.grad = gradient
            if masked:
                mask.apply_({name: p.grad for name, p in parameters.items()})
            nn.utils.clip_grad_norm_(view.module.parameters(), clip)
            optimizer.step()


@pytest.mark.parametrize("factory", [lambda p: SGD(p, lr=0.1, momentum=0.9), lambda p: Adam(p, lr=0.1)])
def test_a_second_optimizer_revives_nothing(view, mask, factory):
    first, second = SGD(view.module.parameters(), lr=0.1), factory(view.module.parameters())
    batches = labelled(view, batches=6)
    for batch in batches[:3]:  # its momentum knows all entries
        second.zero_grad()
        backward(view.module, batch)
        second.step()
    with hold(view, mask, first):
        for batch in batches[3:]:
            second.zero_grad()
            backward(view.module, batch)
            second.step()
            assert not removed(view, mask).any()
            for name, keep in mask.keep.items():
                for tensor in second.state[view.module.get_parameter(name)].values():
                    if tensor.shape == keep.shape:
                        assert not tensor[~keep].any()
            first.step()
    assert hooks_left(view.module, first) == 0


def test_an_optimizer_of_other_weights_is_left_alone(view, mask):
    other = nn.Linear(3, 3)
    optimizer = SGD(other.parameters(), lr=0.1)
    with hold(view, mask, SGD(view.module.parameters(), lr=0.1)):
        with torch.no_grad():
            view.module.get_parameter(NAME).fill_(1.0)
        other(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        assert view.module.get_parameter(NAME).all()
        apply_(view, mask)


def assigned(module: nn.Module) -> None:
    module.load_state_dict({n: torch.ones_like(t) for n, t in module.state_dict().items()}, assign=True)


def renewed(module: nn.Module) -> None:
    module[0].weight = nn.Parameter(torch.ones(16, 12))


REPLACED = {"load_state_dict(assign=True)": assigned, "a new parameter": renewed}


@pytest.mark.parametrize("how", REPLACED)
def test_parameters_that_are_replaced_do_not_escape_the_check(view, mask, how):
    optimizer = SGD(view.module.parameters(), lr=0.1)

    def replace() -> None:
        with hold(view, mask, optimizer):
            REPLACED[how](view.module)

    with pytest.raises(MaskViolated, match=r"^0\.weight: \d+ entries that the mask removed are not zero"):
        replace()
    assert hooks_left(view.module, optimizer) == 0


@pytest.mark.parametrize("how", REPLACED)
def test_parameters_that_are_replaced_are_followed(view, mask, how):
    with hold(view, mask, SGD(view.module.parameters(), lr=0.1)):
        REPLACED[how](view.module)
        optimizer = SGD(view.module.parameters(), lr=0.1)
        optimizer.step()
        for batch in labelled(view, batches=2):
            optimizer.zero_grad()
            backward(view.module, batch)
            assert not view.module[0].weight.grad[~mask.keep[NAME]].any()
            optimizer.step()
            assert not view.module[0].weight[~mask.keep[NAME]].any()
        apply_(view, mask)


def test_a_parameter_of_another_shape_is_no_replacement(view, mask):
    def replace() -> None:
        with hold(view, mask, SGD(view.module.parameters(), lr=0.1)):
            view.module[0].weight = nn.Parameter(torch.ones(16, 3))

    with pytest.raises(BadInput, match=r"0\.weight: expected shape \(16, 12\), got \(16, 3\)"):
        replace()


@pytest.fixture
def one_process() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def sharded(module: nn.Module) -> nn.Module:
    return fully_shard(module, mesh=init_device_mesh("cpu", (1,)))


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.parametrize("inside", [False, True])
def test_sharded_parameters_are_held(view, mask, inside):
    batches = labelled(view, batches=3)
    expected = reference(copy.deepcopy(view.module).double(), mask, batches, clip=1e9)
    if not inside:
        sharded(view.module)
    apply_(view, mask)
    with hold(view, mask, SGD(view.module.parameters(), lr=0.1)):
        if inside:
            sharded(view.module)
        optimizer = SGD(view.module.parameters(), lr=0.1, momentum=0.9)
        for batch in batches:
            optimizer.zero_grad()
            backward(view.module, batch)
            optimizer.step()
    for name, parameter in view.module.named_parameters():
        torch.testing.assert_close(parameter.full_tensor(), expected[name].float(), rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("one_process")
def test_sharded_weights_that_come_back_to_life_are_caught(view, mask):
    sharded(view.module)

    def revive() -> None:
        with hold(view, mask, SGD(view.module.parameters(), lr=0.1)), torch.no_grad():
            view.module[0].weight.fill_(1.0)

    with pytest.raises(MaskViolated, match=r"^0\.weight"):
        revive()


@pytest.mark.usefixtures("one_process")
def test_what_needs_whole_tensors_says_so(view):
    sharded(view.module)
    with pytest.raises(
        BadInput, match=r"6 of 6 tensors of .* are sharded, first 0\.weight.*before fully_shard"
    ):
        prune(view, sparsity=0.5, score="magnitude")
