"""Training and evaluating a model through Accelerate, which sees the optimizer but never wraps the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.scheduler import AcceleratedScheduler
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from sigprune.base import rng
from sigprune.base.errors import BadInput, Diverged
from sigprune.base.progress import ProgressCallback, ignore
from sigprune.pruning.masked_optimizer import hold
from sigprune.training.config import Device, Precision, TrainConfig
from sigprune.training.determinism import deterministic
from sigprune.training.evaluation import Split, class_count, evaluate, logits
from sigprune.values.mask import Mask
from sigprune.values.origin import remember_origin_
from sigprune.values.view import View, expect_view

__all__ = ["Split", "TrainConfig", "evaluate", "fit"]

Row: TypeAlias = dict[str, int | float | None]

_REMEDY = "try a lower learning rate (train.lr), a warm-up (train.warmup_epochs), or train.clip"


def fit(
    view: View,
    mask: Mask | None,
    train: Split,
    test: Split | None,
    plan: TrainConfig,
    *,
    seed: int = 0,
    on_progress: ProgressCallback = ignore,
    each_epoch: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Train the view's module in place, the mask held throughout.

    The module is trained in its own training mode (BatchNorm statistics move as usual) and comes back on the
    device where it was, in evaluation mode, without hooks and gradients. torch's random state and determinism
    settings come back as they were. Equal seeds give equal weights, bit for bit, on the same machine and
    device, as far as torch has deterministic kernels (on CUDA it warns where it has none).

    Args:
        view: the model.
        mask: what is kept; None trains the dense model.
        train: inputs, examples first, and integer labels (examples,); stay where they are, batches are moved.
        test: likewise, evaluated after every epoch; None evaluates nothing.
        plan: how to train.
        seed: order of the examples and dropout.
        on_progress: called after every optimizer step with (steps done, steps in total).
        each_epoch: called after every epoch with its row.

    Returns:
        One row per epoch: ``epoch`` (from 1), ``lr`` (of its last optimizer step), ``train_loss`` (mean over
        the epoch, training mode), ``test_loss`` and ``test_accuracy`` (full precision, no label smoothing).

    Raises:
        BadInput: nothing to train, a device or precision that this machine lacks, or more than one process.
        Diverged: the loss became NaN or infinite, in training (names the epoch and the step) or on the test
            split, or a parameter or buffer did.
        DataError: labels that do not fit the inputs or the output of the model.

    Example:
        >>> from sigprune import describe, prune
        >>> view = describe(torch.nn.Linear(8, 4))
        >>> split = torch.randn(64, 8), torch.arange(64) % 4
        >>> mask = prune(view, sparsity=0.5, score="magnitude")
        >>> rows = fit(view, mask, split, split, TrainConfig(epochs=2), seed=0)
        >>> [row["epoch"] for row in rows]
        [1, 2]
    """
    expect_view(view)
    classes = class_count(train)
    module = view.module
    home = next(module.parameters()).device
    with _accelerator(plan) as accelerator:
        try:
            module.to(accelerator.device).zero_grad(set_to_none=True)
            with deterministic(accelerator.device), rng.global_stream(seed, "training"):
                optimizer, scheduler = _prepared(module, plan, len(train[1]), accelerator)
                loop = _Loop(
                    view, plan, train, classes, accelerator, optimizer, scheduler, on_progress, each_epoch
                )
                with nullcontext() if mask is None else hold(view, mask, optimizer):
                    rows = [_epoch(loop, number, seed, test) for number in range(plan.epochs)]
            _expect_finite(module, plan.epochs)
            if rows:
                remember_origin_(module, "pretrained")
            return rows
        finally:
            module.zero_grad(set_to_none=True)
            module.eval().to(home)


@dataclass(frozen=True, eq=False)
class _Loop:
    """What the epochs share."""

    view: View
    plan: TrainConfig
    train: Split
    classes: int
    accelerator: Accelerator
    optimizer: AcceleratedOptimizer
    scheduler: AcceleratedScheduler
    on_progress: ProgressCallback
    each_epoch: Callable[[Row], None] | None


def _epoch(loop: _Loop, number: int, seed: int, test: Split | None) -> Row:
    loop.view.module.train()
    examples = len(loop.train[1])
    steps = _steps(examples, loop.plan, rng.generator(seed, "example order", str(number)))
    losses: list[Tensor] = []
    rate = math.nan
    for rows in steps:
        rate = float(loop.optimizer.param_groups[0]["lr"])
        losses.append(_step(loop, rows))
        loop.on_progress(number * len(steps) + len(losses), loop.plan.epochs * len(steps))
    row: Row = {"epoch": number + 1, "lr": rate, "train_loss": _mean_loss(losses, number, examples)}
    scored = {} if test is None else evaluate(loop.view, test, loop.plan.batch_size)
    if not math.isfinite(scored.get("loss", 0.0)):
        raise Diverged(f"training: the test loss is {scored['loss']} after epoch {number + 1}; {_REMEDY}")
    row |= {"test_loss": scored.get("loss"), "test_accuracy": scored.get("accuracy")}
    if loop.each_epoch is not None:
        loop.each_epoch(row)
    return row


def _step(loop: _Loop, rows: list[Tensor]) -> Tensor:
    """One optimizer step; returns the sum of the examples' losses, without waiting for the device."""
    examples = sum(len(r) for r in rows)
    total = torch.zeros((), device=loop.accelerator.device)
    for row in rows:
        batch = loop.view.read((loop.train[0][row], loop.train[1][row]))
        with loop.accelerator.autocast():
            output, labels = logits(loop.view, batch, loop.classes)
        loss = functional.cross_entropy(
            output, labels, label_smoothing=loop.plan.label_smoothing, reduction="sum"
        )
        # The mean over the step's examples: parts of unequal size count by their size.
        loop.accelerator.backward(loss / examples)
        total += loss.detach()
    if loop.plan.clip is not None:
        loop.accelerator.clip_grad_norm_(loop.view.module.parameters(), loop.plan.clip)
    loop.optimizer.step()
    loop.scheduler.step()
    loop.optimizer.zero_grad()
    return total


def _steps(examples: int, plan: TrainConfig, generator: torch.Generator) -> list[list[Tensor]]:
    """Row numbers in a random order, by optimizer step and by batch."""
    batches = list(torch.split(torch.randperm(examples, generator=generator), plan.batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        # BatchNorm cannot train on a single example, so a last one on its own joins the batch before.
        batches[-2:] = [torch.cat(batches[-2:])]
    return [batches[i : i + plan.accumulate] for i in range(0, len(batches), plan.accumulate)]


def _mean_loss(steps: list[Tensor], number: int, examples: int) -> float:
    """The mean over an epoch; looked at once per epoch, so that a GPU never waits."""
    losses = torch.stack(steps).double().cpu()
    bad = losses.isfinite().logical_not().nonzero()
    if len(bad):
        raise Diverged(
            f"training: the loss is {float(losses[bad[0]])} in epoch {number + 1}, step {int(bad[0]) + 1} of "
            f"{len(losses)}; {_REMEDY}"
        )
    return float(losses.sum()) / examples


def _expect_finite(module: nn.Module, epochs: int) -> None:
    """The last step, whose loss nobody has seen, must have left finite values behind too."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise Diverged(f"training: {name} holds NaN or infinity after epoch {epochs}; {_REMEDY}")


def _prepared(
    module: nn.Module, plan: TrainConfig, examples: int, accelerator: Accelerator
) -> tuple[AcceleratedOptimizer, AcceleratedScheduler]:
    trained = [p for p in module.parameters() if p.requires_grad]
    if not trained:
        raise BadInput(
            "training: every parameter is frozen (requires_grad is False); nothing is left to train"
        )
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = _optimizer([g for g in groups if g["params"]], plan)
    per_epoch = len(_steps(examples, plan, torch.Generator()))
    scheduler = LambdaLR(optimizer, lambda step: plan.factor(step, per_epoch))
    # The model itself is not prepared: that would replace its forward method.
    prepared: tuple[AcceleratedOptimizer, AcceleratedScheduler] = accelerator.prepare(optimizer, scheduler)
    return prepared


def _optimizer(groups: list[dict[str, object]], plan: TrainConfig) -> torch.optim.Optimizer:
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, plan.lr, momentum=plan.momentum, nesterov=plan.nesterov)
    kind = torch.optim.AdamW if plan.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, plan.lr)


@contextmanager
def _accelerator(plan: TrainConfig) -> Iterator[Accelerator]:
    """An Accelerator of our own; one that the caller has in the same process keeps its state."""
    on_cpu = device_of(plan.device, plan.precision).type == "cpu"
    # Accelerate keeps its settings in dictionaries that the whole process shares, and refuses other settings.
    shared = [kind._shared_state for kind in (AcceleratorState, PartialState, GradientState)]
    saved = [dict(state) for state in shared]
    for state in shared:
        state.clear()
    try:
        accelerator = Accelerator(mixed_precision=plan.precision, cpu=on_cpu)
        if accelerator.num_processes > 1:
            raise BadInput(f"training runs in one process, but was launched in {accelerator.num_processes}")
        yield accelerator
        accelerator.free_memory()
    finally:
        for state, before in zip(shared, saved, strict=True):
            state.clear()
            state.update(before)


def device_of(name: Device, precision: Precision = "no") -> torch.device:
    """The device of that name (``auto``: CUDA where there is one).

    Raises:
        BadInput: this machine lacks it, or it lacks the precision.
    """
    cuda = torch.cuda.is_available()
    if name == "cuda" and not cuda:
        raise BadInput("device: cuda was asked for, but torch finds no CUDA device; use cpu or auto")
    device = torch.device("cuda" if cuda and name != "cpu" else "cpu")
    if precision == "fp16" and device.type == "cpu":
        raise BadInput("train.precision: fp16 needs a CUDA device; use bf16 or no on the CPU")
    return device
