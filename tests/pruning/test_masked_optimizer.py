"""Removed weights stay exactly zero under every optimizer, and no trace of the holding is left."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, SparseAdam
from torch.optim import optimizer as steps

from sigprune.base.errors import BadInput, MaskViolated
from sigprune.base.rng import generator
from sigprune.models.opening import describe
from sigprune.pruning.masked_optimizer import hold
from sigprune.values.mask import Mask
from sigprune.values.view import View
from tests.support.networks import labelled, mlp, seeded

KINDS = {
    **{
        f"sgd-momentum{m}-nesterov{int(n)}": (SGD, {"momentum": m, "nesterov": n})
        for m, n in [(0.0, False), (0.9, False), (0.9, True)]
    },
    "adam": (Adam, {}),
    "adam-amsgrad": (Adam, {"amsgrad": True}),
    "adamw": (AdamW, {}),
}
IMPLEMENTATIONS = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def random_mask(view: View, seed: int = 0, kept: float = 0.6) -> Mask:
    draw = generator(seed, "test", "mask")
    return Mask({n: torch.rand(s, generator=draw) < kept for n, s in view.prunable_shapes().items()})


def removed(view: View, mask: Mask) -> Tensor:
    params = view.params()
    return torch.cat([params[n][~keep] for n, keep in mask.keep.items()])


def train(view: View, optimizer: Optimizer, steps: int = 3, *, clear: bool = True) -> None:
    """A loop such as anybody's; ``clear`` False accumulates the gradients of all steps."""
    for inputs, labels in labelled(view, batches=steps, classes=4):
        if clear:
            optimizer.zero_grad()
        nn.functional.cross_entropy(view.module(inputs), labels).backward()
        optimizer.step()


@pytest.fixture
def view() -> View:
    return describe(seeded(mlp()))


@pytest.fixture
def mask(view: View) -> Mask:
    return random_mask(view)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_removed_weights_stay_zero_and_kept_ones_learn(view, mask, kind, implementation, decay):
    factory, options = KINDS[kind]
    optimizer = factory(
        view.module.parameters(), lr=0.05, weight_decay=decay, **options, **IMPLEMENTATIONS[implementation]
    )
    train(view, optimizer)  # dense steps first: the state has entries that the mask removes
    before = copy.deepcopy(view.params())
    with hold(view, mask, optimizer):
        assert not removed(view, mask).any()  # from the first moment, not from the first step
        for _ in range(3):
            train(view, optimizer, steps=1)
            assert not removed(view, mask).any()
        for name, keep in mask.keep.items():
            for tensor in optimizer.state[view.module.get_parameter(name)].values():
                if isinstance(tensor, Tensor) and tensor.shape == keep.shape:
                    assert not tensor[~keep].any()
    for name, keep in mask.keep.items():
        assert (view.params()[name][keep] != before[name][keep]).float().mean() > 0.9


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("factory", [SGD, AdamW])
def test_gradients_of_removed_entries_never_count(view, mask, factory, value):
    """Infinite and NaN gradients of removed entries change nothing, clipping by norm included."""

    def poison(module: nn.Module) -> list:
        gradients = (
            (module.get_parameter(n), torch.zeros(k.shape).masked_fill(~k, value))
            for n, k in mask.keep.items()
        )
        return [p.register_hook(lambda g, add=add: g + add) for p, add in gradients]  # fmt: skip

    results = []
    for poisoned in (False, True):
        other = describe(copy.deepcopy(view.module))
        hooks = poison(other.module) if poisoned else []
        optimizer = factory(other.module.parameters(), lr=0.05)
        with hold(other, mask, optimizer):
            for inputs, labels in labelled(other):
                optimizer.zero_grad()
                nn.functional.cross_entropy(other.module(inputs), labels).backward()
                nn.utils.clip_grad_norm_(other.module.parameters(), 0.1)
                optimizer.step()
        assert len(hooks) == (len(mask.keep) if poisoned else 0)
        results.append(other.params())
    for name, expected in results[0].items():
        assert torch.equal(results[1][name], expected)


def test_accumulated_gradients_are_masked(view, mask):
    optimizer = SGD(view.module.parameters(), lr=0.05, momentum=0.9)
    train(view, optimizer, steps=1)  # leaves gradients behind that the mask has not seen
    with hold(view, mask, optimizer):
        assert not any(view.module.get_parameter(n).grad[~k].any() for n, k in mask.keep.items())
        train(view, optimizer, clear=False)
        for name, keep in mask.keep.items():
            assert not view.module.get_parameter(name).grad[~keep].any()
    assert not removed(view, mask).any()


def test_the_model_is_neither_wrapped_nor_renamed(view, mask):
    module, keys = view.module, list(view.module.state_dict())
    params = [id(p) for p in module.parameters()]
    optimizer = SGD(module.parameters(), lr=0.05)
    with hold(view, mask, optimizer):
        train(view, optimizer)
        assert list(module.state_dict()) == keys
        assert [id(p) for p in module.parameters()] == params
        assert all(type(p) is nn.Parameter for p in module.parameters())
    assert hooks_left(module, optimizer) == 0


def hooks_left(module: nn.Module, optimizer: Optimizer) -> int:
    count = len(optimizer._optimizer_step_post_hooks) + len(optimizer._optimizer_step_pre_hooks)
    count += len(steps._global_optimizer_pre_hooks) + len(steps._global_optimizer_post_hooks)
    count += sum(len(p._post_accumulate_grad_hooks or ()) for p in module.parameters())
    count += sum(len(p._backward_hooks or ()) for p in module.parameters())
    return count + sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in module.modules())


def test_hooks_are_there_while_it_holds(view, mask):
    """Guards the count of hooks above against counting nothing."""
    optimizer = SGD(view.module.parameters(), lr=0.05)
    with hold(view, mask, optimizer):
        assert hooks_left(view.module, optimizer) == 2 + len(mask.keep)


def test_a_weight_that_comes_back_to_life_is_caught_on_exit(view, mask):
    optimizer = SGD(view.module.parameters(), lr=0.05)
    name = next(iter(mask.keep))

    def revive_after_the_last_step() -> None:
        with hold(view, mask, optimizer):
            train(view, optimizer)
            view.params()[name][tuple((~mask.keep[name]).nonzero()[0])] = 1e-30

    with pytest.raises(MaskViolated, match=f"{name}: 1 entries"):
        revive_after_the_last_step()
    assert hooks_left(view.module, optimizer) == 0


def test_a_weight_written_before_a_step_is_zeroed_by_it(view, mask):
    optimizer = SGD(view.module.parameters(), lr=0.05)
    with hold(view, mask, optimizer):
        with torch.no_grad():
            view.module.get_parameter(next(iter(mask.keep))).fill_(1.0)
        train(view, optimizer, steps=1)
        assert not removed(view, mask).any()


def test_an_exception_passes_and_leaves_no_hooks(view, mask):
    optimizer = SGD(view.module.parameters(), lr=0.05)

    def fail() -> None:
        with torch.no_grad():
            view.module.get_parameter(next(iter(mask.keep))).fill_(1.0)  # must not hide the true error
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"), hold(view, mask, optimizer):
        fail()
    assert hooks_left(view.module, optimizer) == 0


def test_an_optimizer_prepared_by_accelerate_is_unwrapped(view, mask):
    optimizer = SGD(view.module.parameters(), lr=0.05, momentum=0.9)
    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(optimizer)
    assert prepared is not optimizer
    with hold(view, mask, prepared):
        assert hooks_left(view.module, optimizer) == 2 + len(mask.keep)
        with torch.no_grad():
            view.module.get_parameter(next(iter(mask.keep))).fill_(1.0)
        train(view, prepared, steps=1)
    assert hooks_left(view.module, optimizer) == 0


def test_frozen_parameters_are_zeroed_and_left_alone(view, mask):
    frozen = next(iter(mask.keep))
    view.module.get_parameter(frozen).requires_grad_(requires_grad=False)
    optimizer = SGD([p for p in view.module.parameters() if p.requires_grad], lr=0.05)
    expected = view.params()[frozen].masked_fill(~mask.keep[frozen], 0.0)
    with hold(view, mask, optimizer):
        train(view, optimizer)
    assert torch.equal(view.params()[frozen], expected)


class Tied(nn.Module):
    """Embedding and classifier share one matrix."""

    def __init__(self, *, sparse: bool = False, tie: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6, sparse=sparse)
        self.head = nn.Linear(6, 7, bias=False)
        if tie:
            self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x).mean(1))


def token_view(module: nn.Module) -> View:
    return describe(module, example=torch.zeros(2, 3, dtype=torch.long))


@pytest.mark.parametrize("name", ["embed.weight", "head.weight"])
def test_tied_weights_are_held_by_either_name(name):
    view = token_view(seeded(Tied()))
    mask = Mask({name: torch.rand(7, 6, generator=generator(0, "test", "tied")) < 0.5})
    optimizer = Adam(view.module.parameters(), lr=0.05)
    with hold(view, mask, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            view.module(torch.tensor([[0, 1, 2], [3, 4, 5]])).logsumexp(1).sum().backward()
            optimizer.step()
    weight = view.module.embed.weight
    assert weight is view.module.head.weight
    assert not weight[~mask.keep[name]].any()
    assert weight[mask.keep[name]].all()


def test_sparse_gradients_are_held_by_the_step_hook():
    module = seeded(Tied(sparse=True, tie=False))
    view = token_view(module)
    mask = Mask({"embed.weight": torch.rand(7, 6, generator=generator(0, "test", "sparse")) < 0.5})
    optimizer = SparseAdam([module.embed.weight], lr=0.05)
    with hold(view, mask, optimizer):
        for _ in range(2):
            optimizer.zero_grad()
            module(torch.tensor([[0, 1, 2], [3, 4, 5]])).logsumexp(1).sum().backward()
            optimizer.step()
    assert not module.embed.weight[~mask.keep["embed.weight"]].any()


def test_a_mask_that_removes_nothing_changes_nothing(view):
    results = []
    for held in (True, False):
        other = describe(copy.deepcopy(view.module))
        optimizer = SGD(other.module.parameters(), lr=0.05, momentum=0.9)
        if held:
            with hold(other, Mask.dense(other.prunable_shapes()), optimizer):
                train(other, optimizer)
        else:
            train(other, optimizer)
        results.append(other.params())
    assert all(torch.equal(a, b) for a, b in itertools.zip_longest(*(r.values() for r in results)))


def test_bad_input_says_what_is_wrong(view, mask):
    optimizer = SGD(view.module.parameters(), lr=0.05)
    with pytest.raises(BadInput, match=r"SGD given to hold\(\) holds none of the 3 masked weights"):
        hold(view, mask, SGD(seeded(mlp()).parameters(), lr=0.1)).__enter__()
    with pytest.raises(BadInput, match=r"other\.weight: .* the model has no such parameter"):
        hold(view, Mask({"other.weight": torch.zeros(2, dtype=torch.bool)}), optimizer).__enter__()
    with pytest.raises(
        BadInput, match=r"0.weight: the mask expects shape \(2, 2\), the model has shape \(16, 12\)"
    ):
        hold(view, Mask({"0.weight": torch.zeros(2, 2, dtype=torch.bool)}), optimizer).__enter__()
    assert hooks_left(view.module, optimizer) == 0
