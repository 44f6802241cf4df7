"""The section of a recipe that says how the mask is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, cast

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from sigprune.base.family import Step
from sigprune.families.allocations import allocations
from sigprune.families.datasets import datasets
from sigprune.families.objectives import objectives
from sigprune.families.patterns import patterns
from sigprune.families.schedules import schedules
from sigprune.families.scores import own_schedule, scores
from sigprune.recipe_messages import shown
from sigprune.recipe_sections import MOST, Names, Section
from sigprune.recipe_steps import Choose
from sigprune.values.composition import objection


def _count_or_all(value: object) -> object:
    if value != "all" and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST):
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
    data: Annotated[Step, Choose(datasets, "prune.data")] | None = None
    score: Annotated[Step, Choose(scores, "prune.score", "snip")] = Step("snip")
    objective: Annotated[Step, Choose(objectives, "prune.objective", "labels")] = Step("labels")
    allocation: Annotated[Step, Choose(allocations, "prune.allocation", "pooled")] = Step("pooled")
    pattern: Annotated[Step, Choose(patterns, "prune.pattern", "unstructured")] = Step("unstructured")
    schedule: Annotated[Step, Choose(schedules, "prune.schedule")] = Field(default=cast(Step, None))
    batches: Annotated[int | Literal["all"], BeforeValidator(_count_or_all)] = 1
    batch_size: int = Field(default=64, ge=1, le=MOST)
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
        own = own_schedule(scores.read(score.name).facts) if isinstance(score, Step) else Step("oneshot")
        if isinstance(value, Mapping) and "name" not in value:
            return {"name": own.name, **own.options, **value}
        return own if value is None else value

    @model_validator(mode="after")
    def _composed(self) -> Prune:
        counts = patterns.read(self.pattern.name).facts["COUNTS"]
        reason = objection(counts, self.pattern.name, self.allocation, self.schedule.name)
        if reason is not None:
            raise ValueError(reason)
        return self
