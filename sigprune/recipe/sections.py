"""The sections of a recipe: every key, its meaning, its default and what it may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, cast

import pydantic
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from sigprune.base.registry import MemberSpec
from sigprune.base.renamed import renamed_options
from sigprune.families.allocations import allocations
from sigprune.families.codecs import codecs
from sigprune.families.datasets import datasets
from sigprune.families.inits import inits
from sigprune.families.objectives import objectives
from sigprune.families.patterns import patterns
from sigprune.families.schedules import schedules
from sigprune.families.scores import own_schedule, scores
from sigprune.families.spectra import spectra
from sigprune.recipe.error_messages import shown
from sigprune.recipe.step_field import Choose
from sigprune.training.config import OptimizerName, Precision, ScheduleName, TrainConfig
from sigprune.values.compatibility import incompatibility

LARGEST_COUNT = 2**31 - 1
"""No count is larger: a tensor could not be indexed by it."""


class Section(BaseModel):
    """Frozen, closed to unknown keys, and strict: no text for a number (an integer serves as a float)."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False
    )


Names = Annotated[tuple[str, ...], Strict(strict=False)]
Part = MemberSpec | Literal["method", "keep"]
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
    args: dict[str, pydantic.JsonValue] = {}
    batchnorm: Literal["fresh", "eval", "batch"] = "fresh"


class Data(Section):
    """The examples.

    Attributes:
        source: a member of the datasets family.
        size: side of the images that the model gets, in pixels; null: as they come.
        batch_size: examples per training step.
    """

    source: Annotated[MemberSpec, Choose(datasets, "data.source", "digits")] = MemberSpec("digits")
    size: int | None = Field(default=None, ge=1, le=LARGEST_COUNT)
    batch_size: int = Field(default=64, ge=1, le=LARGEST_COUNT)


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

    method: Annotated[MemberSpec, Choose(inits, "init.method", "orthogonal")] | None = MemberSpec(
        "orthogonal"
    )
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
        fresh: dict[str | None, object] = {"embedding": MemberSpec("normal"), "norms": "reset"}
        return "keep" if kept else fresh[info.field_name]


class Measure(Section):
    """Singular values of the input-output Jacobian.

    Attributes:
        method: a member of the spectra family; ``auto`` is exact where that is affordable.
        examples: training examples at which it is taken.
        max_memory_gib: bound on the memory of graphs and batched products, in GiB.
        max_seconds: bound on the time of one measurement, counted from its operations and the same on every
            machine: examples are left out, then Lanczos steps, until it fits; null: no bound.
    """

    method: Annotated[MemberSpec, Choose(spectra, "measure.method", "auto")] = MemberSpec("auto")
    examples: int = Field(default=8, ge=1, le=LARGEST_COUNT)
    max_memory_gib: float = Field(default=0.5, gt=0)
    max_seconds: float | None = Field(default=2.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _old_keys(cls, data: object) -> object:
        return renamed_options(data) if isinstance(data, Mapping) else data


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
    """Training the sparse network (and the dense one, if it is a baseline), with the defaults of TrainConfig.

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

    epochs: int = TrainConfig.epochs
    optimizer: OptimizerName = TrainConfig.optimizer
    lr: float = TrainConfig.lr
    momentum: float = TrainConfig.momentum
    nesterov: bool = TrainConfig.nesterov
    weight_decay: float = TrainConfig.weight_decay
    schedule: ScheduleName = TrainConfig.schedule
    milestones: Annotated[tuple[float, ...], Strict(strict=False)] = TrainConfig.milestones
    gamma: float = TrainConfig.gamma
    warmup_epochs: float = TrainConfig.warmup_epochs
    label_smoothing: float = TrainConfig.label_smoothing
    accumulate: int = TrainConfig.accumulate
    clip: float | None = TrainConfig.clip
    precision: Precision = TrainConfig.precision

    @model_validator(mode="after")
    def _plan(self) -> Train:
        TrainConfig(**dict(self))  # checks the ranges
        return self


class Save(Section):
    """The packed file.

    Attributes:
        codec: a member of the codecs family.
    """

    codec: Annotated[MemberSpec, Choose(codecs, "save.codec", "bitmask")] = MemberSpec("bitmask")


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


def _count_or_all(value: object) -> object:
    if value != "all" and (
        isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST_COUNT
    ):
        raise ValueError(f"prune.batches: expected an integer >= 1 or 'all', got {shown(value)}")
    return value


class Prune(Section):
    """Choosing the mask.

    Attributes:
        sparsity: fraction of the prunable entries that is removed, in [0, 1); null if ``parameters`` or
            ``mask`` is given.
        parameters: instead, what the network keeps in all: a number of parameters, or the reference of a
            model that has as many (with the data's classes and the model's channels): ``timm:resnet18``.
        mask: instead, a folder or a Hub repository that a run wrote: its mask is taken over, and ``score``
            chooses only for classifiers of another shape.
        data: a data set to score with, where that is not the one to train on; null: ``data.source``.
        score: ranks the entries, higher = keep.
        objective: the scalar that a data-driven score differentiates.
        allocation: how many entries each weight keeps; ``floor`` (of most members) is the least density of a
            weight, ``from_mask`` takes the densities of a ``checkpoint`` folder; null: what fits the score
            (``pooled``; ``uniform`` for ``wanda``, and for ``magnitude`` of pretrained weights).
        pattern: where the kept entries of a weight may sit; null: what fits the score (``unstructured``;
            ``per_row`` for ``wanda``). ``n_m`` fixes every density: it needs the
            allocation ``uniform``, the schedule ``oneshot`` and just the sparsity that it has. ``block`` and
            ``channel`` keep whole units, fewer entries than asked for by less than one unit; ``channel``
            needs ``exclude: [head]``.
        schedule: how many entries each round keeps; null: the score's own schedule.
        batches: batches of the training split to score with, or ``all``.
        batch_size: examples per such batch; null: ``data.batch_size``.
        balanced: score with as many examples of each class as there are (GraSP's choice).
        include: shell patterns of names, roles or stages of the weights to prune; embeddings (and heads that
            stay dense) only if named.
        exclude: the same of weights that stay dense; ``first`` is the first one that is no embedding.
        biases: prune the biases of those weights too.
        heads: ``dense`` leaves classifiers alone (the default if pretrained weights are kept, unless ``mask``
            is given), ``prune`` treats them as all others; null, and then not written out: ``prune``.
    """

    sparsity: float | None = Field(default=cast(float, None))
    parameters: int | str | None = None
    mask: str | None = None
    data: Annotated[MemberSpec, Choose(datasets, "prune.data")] | None = None
    score: Annotated[MemberSpec, Choose(scores, "prune.score", "snip")] = MemberSpec("snip")
    objective: Annotated[MemberSpec, Choose(objectives, "prune.objective", "labels")] = MemberSpec("labels")
    allocation: Annotated[MemberSpec, Choose(allocations, "prune.allocation", "pooled")] = MemberSpec(
        "pooled"
    )
    pattern: Annotated[MemberSpec, Choose(patterns, "prune.pattern", "unstructured")] = MemberSpec(
        "unstructured"
    )
    schedule: Annotated[MemberSpec, Choose(schedules, "prune.schedule")] = Field(
        default=cast(MemberSpec, None)
    )
    batches: Annotated[int | Literal["all"], BeforeValidator(_count_or_all)] = 1
    batch_size: int = Field(default=64, ge=1, le=LARGEST_COUNT)
    balanced: bool = False
    include: Names = ("*",)
    exclude: Names = ()
    biases: bool = False
    heads: Literal["dense", "prune"] | None = None

    @model_serializer(mode="wrap")
    def _without_null_heads(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        """What only pretrained networks have says nothing of others, and leaves their digests alone."""
        plain: dict[str, object] = write(self)
        return {key: value for key, value in plain.items() if key != "heads" or value is not None}

    @model_validator(mode="before")
    @classmethod
    def _one_size(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        given = [key for key in ("sparsity", "parameters", "mask") if data.get(key) is not None]
        if len(given) > 1:
            raise ValueError(
                f"prune.{given[1]}: {given[0]} already says how much is removed; set one to null"
            )
        return data if given else {**data, "sparsity": 0.9}

    @field_validator("sparsity")
    @classmethod
    def _fraction(cls, value: float | None) -> float | None:
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"expected the fraction removed, 0 <= sparsity < 1, got {value:g}")
        return value

    @field_validator("parameters")
    @classmethod
    def _positive(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"expected a number of parameters, 1 or more, got {value}")
        return value

    @field_validator("schedule", mode="before")
    @classmethod
    def _own_schedule(cls, value: object, info: ValidationInfo) -> object:
        score = info.data.get("score")
        own = (
            own_schedule(scores.read(score.name).facts)
            if isinstance(score, MemberSpec)
            else MemberSpec("oneshot")
        )
        if isinstance(value, Mapping) and "name" not in value:
            return {"name": own.name, **own.options, **value}
        return own if value is None else value

    @model_validator(mode="after")
    def _composed(self) -> Prune:
        counts = patterns.read(self.pattern.name).facts["COUNTS"]
        reason = incompatibility(counts, self.pattern.name, self.allocation, self.schedule.name)
        if reason is not None:
            raise ValueError(reason)
        return self
