"""The sections of a recipe: every key, its meaning, its default and what it may hold."""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    Strict,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sigprune.base.family import Step
from sigprune.effects.plan import OptimizerName, Precision, ScheduleName, TrainPlan
from sigprune.families.codecs import codecs
from sigprune.families.datasets import datasets
from sigprune.families.inits import inits
from sigprune.families.spectra import spectra
from sigprune.recipe_steps import Choose

MOST = 2**31 - 1
"""No count is larger: a tensor could not be indexed by it."""


class Section(BaseModel):
    """Frozen, closed to unknown keys, and strict: no text for a number (an integer serves as a float)."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False
    )


Names = Annotated[tuple[str, ...], Strict(strict=False)]
Part = Step | Literal["method", "keep"]
Check = Literal[
    "shuffled",
    "random",
    "inverted",
    "re-initialised",
    "random labels",
    "shuffled pixels",
    "half the data",
]
"""Sanity checks of a mask."""


class Model(Section):
    """The network.

    Attributes:
        ref: ``timm:NAME``, ``transformers:TYPE``, ``torch:import.path``, a Hub id or a local folder.
        pretrained: start from trained weights.
        args: arguments of the architecture.
        batchnorm: statistics that BatchNorm uses while scoring and measuring: ``fresh`` (Lee et al. 2020),
            ``eval``: the stored ones (the default if ``pretrained``), or ``batch`` (measuring then uses fresh
            ones: those of a batch would couple the examples).
    """

    ref: str = Field(min_length=1)
    pretrained: bool = False
    args: dict[str, JsonValue] = {}
    batchnorm: Literal["fresh", "eval", "batch"] = "fresh"


class Data(Section):
    """The examples.

    Attributes:
        source: a member of the datasets family.
        size: side of the images that the model gets, in pixels; null: as they come.
        batch_size: examples per training step.
    """

    source: Annotated[Step, Choose(datasets, "data.source", "digits")] = Step("digits")
    size: int | None = Field(default=None, ge=1, le=MOST)
    batch_size: int = Field(default=64, ge=1, le=MOST)


class Init(Section):
    """Fresh values before pruning.

    Attributes:
        method: a member of the inits family; null keeps the values (the default if ``model.pretrained``).
        depthwise: of kernels of one channel each: a member, ``method`` (as all others) or ``keep``.
        embedding: of embedding tables, position tables and tokens, likewise; null: normal with std 0.02, or
            ``keep`` if ``method`` is null.
        head: of classifiers: a member, ``method`` or ``keep``.
        norms: ``reset`` (scales 1, shifts 0, statistics fresh) or ``keep``; null: ``keep`` if ``method`` is
            null, else ``reset``.
        gates: ``open`` sets the scales that close residual branches to 1: behind a closed one every gradient
            score is zero.
        calibrate: root mean square singular value of the Jacobian that the network is scaled to, after
            initialisation and again after restoring isometry (1 for isometry); null: not scaled.
    """

    method: Annotated[Step, Choose(inits, "init.method", "orthogonal")] | None = Step("orthogonal")
    depthwise: Annotated[Part, Choose(inits, "init.depthwise", words=("method", "keep"))] = "method"
    embedding: Annotated[Part, Choose(inits, "init.embedding", words=("method", "keep"))] = Field(
        default=cast(Part, None)
    )
    head: Annotated[Part, Choose(inits, "init.head", words=("method", "keep"))] = "method"
    norms: Literal["reset", "keep"] = Field(default=cast(Literal["reset"], None))
    gates: Literal["open", "keep"] = "open"
    calibrate: float | None = Field(default=None, gt=0)

    @field_validator("embedding", "norms", mode="before")
    @classmethod
    def _as_method(cls, value: object, info: ValidationInfo) -> object:
        if value is not None:
            return value
        kept = "method" in info.data and info.data["method"] is None
        fresh: dict[str | None, object] = {"embedding": Step("normal"), "norms": "reset"}
        return "keep" if kept else fresh[info.field_name]


class Measure(Section):
    """Singular values of the input-output Jacobian.

    Attributes:
        method: a member of the spectra family; ``auto`` is exact where that is affordable.
        examples: training examples at which it is taken.
        most_gib: bound on the memory of graphs and batched products, in GiB.
        max_seconds: bound on the time of one measurement, counted from its operations and the same on every
            machine: examples are left out, then Lanczos steps, until it fits; null: no bound.
    """

    method: Annotated[Step, Choose(spectra, "measure.method", "auto")] = Step("auto")
    examples: int = Field(default=8, ge=1, le=MOST)
    most_gib: float = Field(default=0.5, gt=0)
    max_seconds: float | None = Field(default=2.0, gt=0)


class Bounds(Section):
    """What a finding must keep.

    Attributes:
        low: smallest value accepted; null: no bound.
        high: largest value accepted; null: no bound.
        required: a failure stops the run before training.
    """

    low: float | None = None
    high: float | None = None
    required: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Bounds:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"expected low <= high, got low {self.low:g} and high {self.high:g}")
        return self


class Train(Section):
    """Training the sparse network (and the dense one, if it is a baseline).

    Attributes:
        epochs: passes over the training split; 0 trains nothing.
        optimizer: ``sgd``, ``adam`` or ``adamw``.
        lr: the highest learning rate.
        momentum: of ``sgd`` only.
        nesterov: of ``sgd`` only; needs a momentum.
        weight_decay: not applied to tensors of one dimension.
        schedule: ``constant``, ``cosine`` (down to 0), or ``step`` (times gamma at each milestone).
        milestones: below 1 a fraction of the epochs, from 1 on a number of epochs; read by ``step``.
        gamma: the factor of ``step``.
        warmup_epochs: epochs (or part of one) during which the learning rate grows linearly.
        label_smoothing: of the training loss, in [0, 1).
        accumulate: batches per optimizer step.
        clip: largest 2-norm of the gradient; null: no limit.
        precision: ``no`` (the model's own), ``bf16``, or ``fp16`` (CUDA only).
    """

    epochs: int = 10
    optimizer: OptimizerName = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: ScheduleName = "cosine"
    milestones: Annotated[tuple[float, ...], Strict(strict=False)] = (0.5, 0.75)
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    accumulate: int = 1
    clip: float | None = None
    precision: Precision = "no"

    @model_validator(mode="after")
    def _plan(self) -> Train:
        TrainPlan(**dict(self))  # checks the ranges
        return self


class Save(Section):
    """The packed file.

    Attributes:
        codec: a member of the codecs family.
    """

    codec: Annotated[Step, Choose(codecs, "save.codec", "bitmask")] = Step("bitmask")


class Push(Section):
    """Sending the finished folder to the Hub; HF_TOKEN, or a stored login, says who sends it.

    Attributes:
        repo: ``user/repo``, made if need be; null: nothing is sent.
        private: of a repository that is made.
        revision: branch; null: ``main``.
        create_pr: open a pull request instead.
        dense: send ``model.safetensors``, which timm and transformers load without sigprune.
        sparse: send the packed model.
    """

    repo: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
    private: bool = False
    revision: str | None = Field(default=None, min_length=1)
    create_pr: bool = False
    dense: bool = True
    sparse: bool = True
