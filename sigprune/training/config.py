"""What a training run is told: plain values that a recipe can hold (imports no torch)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from sigprune.base.errors import BadInput, UnknownName

OptimizerName = Literal["sgd", "adam", "adamw"]
ScheduleName = Literal["constant", "cosine", "step"]
Precision = Literal["no", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class TrainConfig:
    """How to train; every field has a plain value, so that a recipe can hold it.

    Attributes:
        epochs: passes over the train split; 0 trains nothing.
        batch_size: examples per forward pass.
        optimizer: ``sgd``, ``adam`` (weight decay added to the gradient), or ``adamw`` (decoupled).
        lr: the highest learning rate.
        momentum: of ``sgd`` only.
        nesterov: of ``sgd`` only; needs a momentum.
        weight_decay: not applied to tensors of one dimension (biases, scales of norms).
        schedule: the learning rate after the warm-up: ``constant``, ``cosine`` (down to 0 at the end), or
            ``step`` (times ``gamma`` at each milestone). It moves once per optimizer step.
        milestones: below 1 a fraction of ``epochs``, from 1 on a number of epochs.
        gamma: the factor of ``step``.
        warmup_epochs: epochs (or part of one) during which the learning rate grows linearly.
        label_smoothing: of the training loss only.
        accumulate: batches per optimizer step; the gradient is the mean over all of their examples.
        clip: largest 2-norm of the whole gradient (removed entries do not count); None does not clip.
        precision: ``no`` (the model's own), ``bf16``, or ``fp16`` (CUDA only, with loss scaling).
        device: ``auto`` is CUDA where there is one.

    Raises:
        BadInput: a value outside its range.
        UnknownName: an optimizer, schedule, precision or device that does not exist.

    Example:
        >>> TrainConfig(epochs=3, lr=0.05).schedule
        'cosine'
    """

    epochs: int = 10
    batch_size: int = 64
    optimizer: OptimizerName = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: ScheduleName = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    accumulate: int = 1
    clip: float | None = None
    precision: Precision = "no"
    device: Device = "auto"

    def __post_init__(self) -> None:
        names = {
            "optimizer": (self.optimizer, get_args(OptimizerName)),
            "learning rate schedule": (self.schedule, get_args(ScheduleName)),
            "precision": (self.precision, get_args(Precision)),
            "device": (self.device, get_args(Device)),
        }
        for kind, (chosen, known) in names.items():
            if chosen not in known:
                raise UnknownName(kind, chosen, known)
        ranges = {
            "epochs": (self.epochs >= 0, "at least 0"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "lr": (self.lr > 0, "above 0"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "nesterov": (not self.nesterov or self.momentum > 0, "false, or a momentum above 0"),
            "weight_decay": (self.weight_decay >= 0, "at least 0"),
            "milestones": (all(m > 0 for m in self.milestones), "all above 0"),
            "gamma": (self.gamma > 0, "above 0"),
            "warmup_epochs": (self._warm(), f"in [0, {self.epochs}]"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in [0, 1)"),
            "accumulate": (self.accumulate >= 1, "at least 1"),
            "clip": (self.clip is None or self.clip > 0, "above 0, or none"),
        }
        wrong = [
            f"train.{name}: expected {expected}, got {getattr(self, name)!r}"
            for name, (ok, expected) in ranges.items()
            if not ok
        ]
        if wrong:
            raise BadInput("; also ".join(wrong))

    def _warm(self) -> bool:
        return self.warmup_epochs >= 0 and (self.warmup_epochs <= self.epochs or self.epochs == 0)

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """What ``lr`` is multiplied with at an optimizer step, counted from 0."""
        warmup = round(self.warmup_epochs * steps_per_epoch)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.schedule == "cosine":
            length = max(self.epochs * steps_per_epoch - warmup, 1)
            return 0.5 * (1 + math.cos(math.pi * min((step - warmup) / length, 1.0)))
        if self.schedule == "step":
            epochs = (m * self.epochs if m < 1 else m for m in self.milestones)
            return self.gamma ** sum(step >= round(e * steps_per_epoch) for e in epochs)
        return 1.0
