"""Training keeps masks, seeds, schedules and the model's shape; evaluation counts what it should."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from sigprune.base.errors import BadInput, DataError, Diverged, UnknownName
from sigprune.base.rng import generator
from sigprune.base.tensors import digest
from sigprune.families.datasets import datasets
from sigprune.models.opening import describe
from sigprune.training.evaluation import evaluate
from sigprune.training.loop import TrainConfig, fit
from sigprune.values.mask import Mask
from sigprune.values.view import View
from tests.support.networks import SmallConv, mlp, seeded

MARK = "_sigprune_weights_origin"
"""Says that the weights were trained."""

CPU = {"device": "cpu", "weight_decay": 0.0}


class DropoutNet(nn.Module):
    """A classifier of digits with BatchNorm and dropout."""

    def __init__(self, *, norm: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(64, 32)
        self.norm = nn.BatchNorm1d(32) if norm else nn.Identity()
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.first(x.flatten(1))))))


@pytest.fixture(scope="module")
def digits():
    return datasets.get("digits").load()


def flat_split(examples: int = 128, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Labels that a linear map of the inputs decides."""
    draw = generator(seed, "test", "flat")
    inputs = torch.randn(examples, 12, generator=draw)
    return inputs, (inputs @ torch.randn(12, 5, generator=draw)).argmax(1)


def flat_view() -> View:
    return describe(seeded(mlp()))


def half(view: View) -> Mask:
    draw = generator(0, "test", "half")
    return Mask({n: torch.rand(s, generator=draw) < 0.5 for n, s in view.prunable_shapes().items()})


def drop_view(*, norm: bool = True) -> View:
    return describe(seeded(DropoutNet(norm=norm)), example=torch.zeros(2, 1, 8, 8))


def whole(view: View) -> str:
    return digest(view.module.state_dict())


def test_a_small_network_learns_the_digits_at_half_the_weights(digits):
    view = drop_view()
    mask = half(view)
    rows = fit(view, mask, digits.train, digits.test, TrainConfig(epochs=5, lr=0.1, device="cpu"))
    assert rows[-1]["test_accuracy"] > 0.9
    assert [r["epoch"] for r in rows] == [1, 2, 3, 4, 5]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    mask.check(view.params())
    scored = evaluate(view, digits.test)
    assert scored["accuracy"] == rows[-1]["test_accuracy"]
    assert scored["loss"] == pytest.approx(rows[-1]["test_loss"])
    assert scored["examples"] == 360


def test_equal_seeds_give_equal_bits_and_others_do_not(digits):
    """With dropout and BatchNorm, whatever state torch's own generator is in."""
    train = (digits.train[0][:300], digits.train[1][:300])
    outcomes = []
    for seed, state in [(3, 0), (3, 1), (4, 0)]:
        view = drop_view()
        torch.manual_seed(state)
        rows = fit(view, half(view), train, digits.test, TrainConfig(epochs=2, device="cpu"), seed=seed)
        outcomes.append((whole(view), rows))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] != outcomes[2][0]
    assert outcomes[0][1] != outcomes[2][1]


def test_torch_is_left_as_it_was(digits):
    view = drop_view()
    torch.manual_seed(5)
    before = (
        torch.get_rng_state(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
    )
    seen = []
    fit(view, None, digits.train, None, TrainConfig(epochs=1, device="cpu"),
        on_progress=lambda *_: seen.append(torch.are_deterministic_algorithms_enabled()))  # fmt: skip
    assert all(seen)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before[1:]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_module_comes_back_bare(digits, precision):
    view = drop_view()
    module, keys = view.module, list(view.module.state_dict())
    attributes = [sorted({*vars(m)} - {MARK}) for m in module.modules()]
    fit(view, half(view), digits.train, None, TrainConfig(epochs=1, precision=precision, device="cpu"))
    assert view.module is module
    assert list(module.state_dict()) == keys
    assert [sorted({*vars(m)} - {MARK}) for m in module.modules()] == attributes
    assert not any(m.training for m in module.modules())
    assert all(p.grad is None and not p._post_accumulate_grad_hooks for p in module.parameters())
    assert all(p.dtype is torch.float32 for p in module.parameters())


def test_one_process_can_train_with_one_precision_after_another(digits):
    """Accelerate alone refuses this; and a caller's own Accelerator keeps its settings."""
    train = (digits.train[0][:128], digits.train[1][:128])
    own = Accelerator(cpu=True, gradient_accumulation_steps=3)
    results = []
    for precision in ("no", "bf16", "no"):
        view = drop_view()
        rows = fit(
            view, half(view), train, digits.test, TrainConfig(epochs=2, precision=precision, device="cpu")
        )
        results.append((whole(view), rows[-1]["train_loss"]))
    assert results[0] == results[2]
    assert results[0][0] != results[1][0]
    assert results[1][1] == pytest.approx(results[0][1], rel=0.05)
    assert (own.mixed_precision, own.gradient_accumulation_steps) == ("no", 3)


def test_two_batches_accumulated_equal_one_of_twice_the_size():
    """Also in the last step, whose batches differ in size: 170 = 64 + 64 + 42 = 2 (32 + 32) + (32 + 10)."""
    train = flat_split(170)
    sizes = {
        "one": {"batch_size": 64},
        "two": {"batch_size": 32, "accumulate": 2},
        "small": {"batch_size": 32},
    }
    views = {name: flat_view() for name in sizes}
    rows = {
        name: fit(view, half(view), train, None, TrainConfig(epochs=3, clip=1.0, **sizes[name], **CPU))
        for name, view in views.items()
    }
    for name, expected in views["one"].params().items():
        torch.testing.assert_close(views["two"].params()[name], expected, rtol=1e-4, atol=1e-6)
    assert rows["two"][-1]["train_loss"] == pytest.approx(rows["one"][-1]["train_loss"], rel=1e-5)
    small, one = (views[n].params()["0.weight"] for n in ("small", "one"))
    assert not torch.allclose(small, one, rtol=1e-2)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_one_step_is_the_optimizers_own(optimizer):
    """One full batch, against torch's optimizer written out by hand, with decay on matrices only."""
    train = flat_split(64)
    view, reference = flat_view(), seeded(mlp())
    plan = TrainConfig(
        epochs=1, batch_size=64, optimizer=optimizer, lr=0.01, weight_decay=0.3, schedule="constant"
    )
    fit(view, None, train, None, replace(plan, device="cpu"))
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
    matrices = [p for p in reference.parameters() if p.dim() > 1]
    vectors = [p for p in reference.parameters() if p.dim() == 1]
    by_hand = [kind(matrices, lr=0.01, weight_decay=0.3), kind(vectors, lr=0.01, weight_decay=0.0)]
    functional.cross_entropy(reference(train[0]), train[1]).backward()
    for part in by_hand:
        part.step()
    for name, p in reference.named_parameters():
        torch.testing.assert_close(view.params()[name], p.detach(), rtol=1e-4, atol=1e-6)


def test_clipping_sees_kept_entries_only():
    """A step of plain SGD moves the weights by lr · clip, and no removed gradient takes its share of it."""
    view, train = flat_view(), flat_split(64)
    mask = half(view)
    mask.apply_(view.params())
    before = copy.deepcopy(view.params())
    plan = TrainConfig(epochs=1, batch_size=64, lr=1.0, momentum=0.0, clip=0.01, schedule="constant", **CPU)
    fit(view, mask, train, None, plan)
    moved = torch.cat([(p - before[n]).flatten() for n, p in view.params().items()])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


def rates(plan: TrainConfig, examples: int = 40) -> list[float]:
    """The learning rate of every epoch's last step."""
    view = flat_view()
    return [float(r["lr"]) for r in fit(view, None, flat_split(examples), None, plan)]


def test_schedules_follow_their_formulas():
    steps, epochs = 4, 10  # 40 examples in batches of 10
    base = {"epochs": epochs, "batch_size": 10, "lr": 0.2, **CPU}
    cosine = rates(TrainConfig(schedule="cosine", **base))
    last = [(e + 1) * steps - 1 for e in range(epochs)]
    assert cosine == pytest.approx([0.1 * (1 + math.cos(math.pi * s / 40)) for s in last])
    assert cosine[-1] < 0.01 * cosine[0]
    assert rates(TrainConfig(schedule="constant", **base)) == pytest.approx([0.2] * 10)
    by_fraction = rates(TrainConfig(schedule="step", milestones=(0.5, 0.8), **base))
    assert by_fraction == pytest.approx([0.2] * 5 + [0.02] * 3 + [0.002] * 2)
    assert rates(TrainConfig(schedule="step", milestones=(5, 8), **base)) == pytest.approx(by_fraction)
    # Accumulation halves the steps of an epoch, and the schedule still ends with the last epoch.
    accumulated = rates(TrainConfig(schedule="cosine", accumulate=2, **base))
    assert accumulated == pytest.approx([0.1 * (1 + math.cos(math.pi * (2 * e + 1) / 20)) for e in range(10)])


def test_warm_up_grows_and_then_hands_over():
    plan = TrainConfig(epochs=10, warmup_epochs=2.5, schedule="cosine", **CPU)
    factors = [plan.factor(step, 4) for step in range(41)]
    assert factors[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert factors[10] == 1.0
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert factors[40] == pytest.approx(0.0, abs=1e-12)


def test_progress_is_reported_per_step():
    seen: list[tuple[int, int]] = []
    plan = TrainConfig(epochs=2, batch_size=8, accumulate=2, **CPU)
    fit(flat_view(), None, flat_split(40), None, plan, on_progress=lambda *now: seen.append(now))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_every_example_is_seen_once_per_epoch_and_a_last_one_alone_joins_the_others():
    """BatchNorm cannot train on one example: 33 = 16 + 17."""
    sizes: list[int] = []

    class Counting(DropoutNet):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            seen.extend(x[:, 0, 0, 0].tolist())
            return super().forward(x)

    seen: list[float] = []
    view = describe(seeded(Counting()), example=torch.zeros(2, 1, 8, 8))
    sizes.clear()
    seen.clear()
    inputs = torch.zeros(33, 1, 8, 8)
    inputs[:, 0, 0, 0] = torch.arange(33.0)
    fit(view, None, (inputs, torch.arange(33) % 10), None, TrainConfig(epochs=2, batch_size=16, device="cpu"))
    assert sizes == [16, 17, 16, 17]
    assert sorted(seen[:33]) == sorted(seen[33:]) == list(range(33))
    assert seen[:33] != seen[33:]


def test_batchnorm_learns_its_statistics(digits):
    view = drop_view()
    view.module.eval()
    fit(view, half(view), digits.train, digits.test, TrainConfig(epochs=1, device="cpu"))
    assert int(view.module.norm.num_batches_tracked) == 23
    assert (view.module.norm.running_mean != 0).all()


def test_a_dense_model_trains_every_weight():
    view = flat_view()
    before = copy.deepcopy(view.params())
    fit(view, None, flat_split(), None, TrainConfig(epochs=1, **CPU))
    assert all((view.params()[n] != p).all() for n, p in before.items())


def test_frozen_parameters_stay_and_no_epochs_do_nothing():
    view = flat_view()
    view.module[0].weight.requires_grad_(requires_grad=False)
    before = copy.deepcopy(view.params())
    assert fit(view, None, flat_split(), None, TrainConfig(epochs=0, **CPU)) == []
    assert all(torch.equal(view.params()[n], p) for n, p in before.items())
    fit(view, None, flat_split(), None, TrainConfig(epochs=1, **CPU))
    assert torch.equal(view.params()["0.weight"], before["0.weight"])
    assert not torch.equal(view.params()["2.weight"], before["2.weight"])


def test_label_smoothing_is_for_training_only():
    split = flat_split(64)
    plain, smooth = (
        fit(
            flat_view(),
            None,
            split,
            split,
            TrainConfig(epochs=1, batch_size=64, lr=1e-9, label_smoothing=s, **CPU),
        )
        for s in (0.0, 0.5)
    )
    assert plain[0]["test_loss"] == pytest.approx(smooth[0]["test_loss"])
    assert plain[0]["train_loss"] == pytest.approx(plain[0]["test_loss"], rel=1e-5)
    assert smooth[0]["train_loss"] != pytest.approx(plain[0]["train_loss"], rel=1e-3)


def test_evaluation_counts_by_hand_and_restores_modes():
    view, split = flat_view(), flat_split(50)
    view.module.train()
    view.module[1].eval()
    modes = [m.training for m in view.module.modules()]
    scored = evaluate(view, split, batch_size=7)
    assert [m.training for m in view.module.modules()] == modes
    output = view.module(split[0]).detach()
    assert scored["accuracy"] == int((output.argmax(1) == split[1]).sum()) / 50
    assert scored["loss"] == pytest.approx(float(functional.cross_entropy(output, split[1])), rel=1e-5)


def test_evaluation_uses_the_stored_batchnorm_statistics():
    view = describe(seeded(SmallConv()), example=torch.zeros(1, 3, 8, 8))
    images, labels = torch.randn(16, 3, 8, 8, generator=generator(0, "test", "bn")), torch.arange(16) % 4
    view.module.norm1.running_mean.fill_(0.5)
    expected = view.module.eval()(images).detach()
    assert evaluate(view, (images, labels))["loss"] == pytest.approx(
        float(functional.cross_entropy(expected, labels))
    )


def test_a_loss_that_explodes_names_epoch_and_step():
    view, split = flat_view(), flat_split(64)
    plan = TrainConfig(epochs=2, batch_size=16, lr=1e38, **CPU)
    with pytest.raises(
        Diverged, match=r"the loss is (nan|inf) in epoch 1, step \d of 4; try a lower learning rate"
    ):
        fit(view, half(view), split, None, plan)
    assert not view.module.training
    assert not torch.are_deterministic_algorithms_enabled()
    assert all(not p._post_accumulate_grad_hooks for p in view.module.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": -1}, "train.epochs: expected at least 0, got -1"),
        ({"lr": 0.0}, "train.lr: expected above 0"),
        ({"momentum": 0.0, "nesterov": True}, "train.nesterov"),
        ({"warmup_epochs": 31.0}, r"train.warmup_epochs: expected in \[0, 10\]"),
        ({"milestones": (0.5, -1)}, "train.milestones"),
        ({"clip": 0.0}, "train.clip"),
    ],
)
def test_plans_outside_their_range_are_refused(change, message):
    with pytest.raises(BadInput, match=message):
        TrainConfig(**change)


def test_bad_input_is_named():
    view, split = flat_view(), flat_split(20)
    with pytest.raises(UnknownName, match="did you mean adam"):
        TrainConfig(optimizer="adamm")
    with pytest.raises(DataError, match="go up to 7, but the model has only 5 outputs"):
        fit(view, None, (split[0], torch.full((20,), 7)), None, TrainConfig(epochs=1, **CPU))
    with pytest.raises(DataError, match="as many integer labels"):
        fit(view, None, (split[0], split[1][:-1]), None, TrainConfig(epochs=1, **CPU))
    with pytest.raises(BadInput, match="fp16 needs a CUDA device"):
        fit(view, None, split, None, TrainConfig(epochs=1, precision="fp16", **CPU))
    for p in view.module.parameters():
        p.requires_grad_(requires_grad=False)
    with pytest.raises(BadInput, match="every parameter is frozen"):
        fit(view, None, split, None, TrainConfig(epochs=1, **CPU))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_named():
    with pytest.raises(BadInput, match="torch finds no CUDA device"):
        fit(flat_view(), None, flat_split(20), None, TrainConfig(epochs=1, device="cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_the_same_code_trains_on_a_gpu(digits, precision):
    view = drop_view()
    mask = half(view)
    rows = fit(
        view,
        mask,
        digits.train,
        digits.test,
        TrainConfig(epochs=5, clip=1.0, precision=precision, device="cuda"),
    )
    assert rows[-1]["test_accuracy"] > 0.9
    assert next(view.module.parameters()).device.type == "cpu"
    mask.check(view.params())
