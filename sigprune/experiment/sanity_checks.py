"""Sanity checks: is it this mask that matters, or only how much of every layer is kept?

A recipe is carried out several times with one thing changed: the positions inside each layer, the order of
the scores, the initial values, the data that were scored with (Frankle et al. 2021, arXiv 2009.08576; Su et
al. 2020, arXiv 2009.11094).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch

from sigprune.base.errors import BadInput, Diverged, FindingFailed, UnknownName, one_line
from sigprune.base.progress import Progress, ProgressCallback
from sigprune.base.rng import derive, generator
from sigprune.experiment.pipeline import Experiment, mask_for
from sigprune.experiment.setup import Setting, method_of
from sigprune.families.objectives import objectives
from sigprune.families.scores import scores
from sigprune.pruning.choose import Method, Pruned, apply_, rescore
from sigprune.recipe.consent import expect_consent
from sigprune.recipe.recipe import Recipe
from sigprune.report.schema import CheckFacts
from sigprune.training.image_fitting import Batches
from sigprune.values.mask import Mask
from sigprune.values.spectrum import Spectrum

AS_IS = "as is"
VARIANTS: Mapping[str, str] = {
    AS_IS: "the recipe itself",
    "shuffled": "the entries of the mask permuted inside every weight",
    "random": "a random mask of the same pattern that keeps as much of every weight",
    "inverted": "as many entries of every weight, those with the lowest scores of the dense network",
    "re-initialised": "the same mask on other initial values",
    "random labels": "scored with the labels permuted among the examples",
    "shuffled pixels": "scored with the pixels of every image in random order",
    "half the data": "scored with half of the examples",
}
"""Variant -> what is changed."""


def check(
    recipe: Recipe, progress: Progress, *, variants: Sequence[str] = (), seeds: int = 1
) -> list[CheckFacts]:
    """Carry out a recipe and its variants, and tabulate what comes of them; nothing is written.

    Args:
        recipe: the experiment.
        progress: told about every step.
        variants: names out of :data:`VARIANTS`; none: all that make sense for the recipe.
        seeds: of the whole experiment, counted from the recipe's; figures are means.

    Returns:
        One row per variant: ``variant``, ``changed``, ``kept`` (entries), ``overlap`` with the mask of the
        recipe itself (Jaccard index) and the ``chance`` of it (that of independent masks that keep as much of
        every weight), ``mean_jsv`` before training, ``effective_sparsity``, ``test_accuracy`` and its
        standard deviation over seeds ``accuracy_std`` (NaN for one seed), ``stopped`` (the required finding
        that forbade training, or how it diverged) or why it makes no sense (``skipped``). Cost: one run of
        the recipe for each.

    Raises:
        NeedsConsent: the recipe's file asks for more than data, and the caller has not consented.
        UnknownName: there is no such variant.
        BadInput: no seeds.
    """
    for name in variants:
        if name not in VARIANTS:
            raise UnknownName("variant", name, VARIANTS)
    if seeds < 1:
        raise BadInput(f"expected at least one seed, got {seeds}")
    expect_consent(recipe)
    chosen = tuple(dict.fromkeys((AS_IS, *(variants or VARIANTS))))
    reasons = {name: skip_reason(recipe, name) for name in chosen}
    outcomes: dict[str, list[Outcome]] = {name: [] for name in chosen if not reasons[name]}
    for number in range(seeds):
        seeded = recipe.model_copy(update={"seed": recipe.seed + number})
        reference: Mask | None = None
        for name, done in outcomes.items():
            done.append(_Variant(seeded, progress, variant=name, reference=reference).outcome())
            reference = reference or done[-1].mask
    return [
        _row(name, outcomes[name]) if name in outcomes else _skipped(name, reasons[name]) for name in chosen
    ]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of one variant under one seed."""

    mask: Mask
    overlap: float
    chance: float
    mean_jsv: float
    effective_sparsity: float
    accuracy: float
    stopped: str


@dataclass(eq=False)
class _Variant(Experiment):
    """An experiment with one thing changed, up to the evaluation."""

    variant: str = field(kw_only=True)
    reference: Mask | None = field(kw_only=True)
    pruned: Pruned | None = None

    def outcome(self) -> Outcome:
        """All steps but those that write."""
        stopped = ""
        try:
            _, mask = self.prepare()
            self.train_both(mask, None)
        except (FindingFailed, Diverged) as error:
            if self.pruned is None:  # it was no good before anything was changed
                raise
            stopped, mask = one_line(error), self.pruned.mask
        other = mask if self.reference is None else self.reference
        evaluation = self.record.evaluation
        values = {finding.name: finding.value for finding in self.record.findings}
        return Outcome(
            mask,
            mask.jaccard(other),
            _chance(mask, other),
            values.get("mean_jsv", math.nan),
            values.get("effective_sparsity", math.nan),
            evaluation.sparse if evaluation and not stopped else math.nan,
            stopped,
        )

    def look(self, moment: str) -> Spectrum | None:
        """Only what the findings before training need."""
        last = "after pruning" if self.recipe.isometry is None else "after isometry"
        return super().look(moment) if moment == last else None

    def prune(self) -> Pruned:
        """The mask of this variant, on the values of this variant."""
        with self.step(f"prune ({self.variant})") as on_progress:
            self.pruned = _choose(self.variant, self.setting, self.reference, on_progress)
        if self.variant == "re-initialised":
            self.initialise(derive(self.recipe.seed, "check", "other initial values"))
        apply_(self.view, self.pruned.mask)
        return self.pruned


def _choose(variant: str, setting: Setting, reference: Mask | None, on_progress: ProgressCallback) -> Pruned:
    if reference is None:
        return mask_for(setting, on_progress)
    if variant == "re-initialised":
        return Pruned(reference)
    if variant == "shuffled":
        return Pruned(_permuted(reference, setting.recipe.seed))
    if variant == "random":
        return _rescored(setting, reference, replace(method_of(setting.recipe), score="random"))
    if variant == "inverted":
        return _rescored(setting, reference, method_of(setting.recipe), lowest=True)
    corrupt, seed = _CORRUPTIONS[variant], setting.recipe.seed
    return mask_for(setting, on_progress, lambda batches: corrupt(batches, generator(seed, "check", variant)))


def _rescored(setting: Setting, mask: Mask, method: Method, *, lowest: bool = False) -> Pruned:
    """As many entries of every weight as the mask keeps, by one score of the dense network."""
    view, seed = setting.view, derive(setting.recipe.seed, "check", "scores")
    kept = {name: count for name, (count, _) in mask.counts().items()}
    dense = Mask.dense(view.prunable_shapes())
    batches = setting.scoring()
    return Pruned(rescore(view, dense, kept, method, batches, seed=seed, lowest=lowest))


def _permuted(mask: Mask, seed: int) -> Mask:
    """As many entries of every weight, at other places."""
    keep = {}
    for name, kept in mask.keep.items():
        order = torch.randperm(kept.numel(), generator=generator(seed, "check", f"shuffled/{name}"))
        keep[name] = kept.flatten()[order].reshape(kept.shape)
    return Mask(keep)


def _random_labels(batches: Batches, draws: torch.Generator) -> Batches:
    return replace(batches, labels=batches.labels[torch.randperm(len(batches.labels), generator=draws)])


def _shuffled_pixels(batches: Batches, draws: torch.Generator) -> Batches:
    images = batches.inputs.images
    pixels = images.flatten(2)
    order = torch.rand(len(images), 1, pixels.shape[2], generator=draws).argsort(2)
    mixed = pixels.gather(2, order.expand_as(pixels)).reshape(images.shape)
    return replace(batches, inputs=replace(batches.inputs, images=mixed))


def _half(batches: Batches, draws: torch.Generator) -> Batches:
    rows = torch.randperm(len(batches.labels), generator=draws)[: max(len(batches.labels) // 2, 1)]
    half = replace(batches.inputs, images=batches.inputs.images[rows])
    return replace(batches, inputs=half, labels=batches.labels[rows])


_CORRUPTIONS: Mapping[str, Callable[[Batches, torch.Generator], Batches]] = {
    "random labels": _random_labels,
    "shuffled pixels": _shuffled_pixels,
    "half the data": _half,
}


def skip_reason(recipe: Recipe, variant: str) -> str:
    """Why a variant would be the recipe itself, or cannot be; empty if it makes sense."""
    plan = recipe.prune
    if variant == "re-initialised" and recipe.init.method is None:
        return "init.method is null: the values are kept"
    if variant == "shuffled" and plan.pattern.name != "unstructured":
        return f"the pattern {plan.pattern.name} would be lost; see random"
    if variant == "inverted" or variant in _CORRUPTIONS:
        if plan.mask is not None:
            return "prune.mask: nothing is scored"
        needs = scores.read(plan.score.name).facts["NEEDS"]
        if variant in _CORRUPTIONS and needs == "nothing":
            return f"the score {plan.score.name} reads no data"
        labels = needs == "objective" and objectives.read(plan.objective.name).facts["NEEDS"] == "labels"
        if variant == "random labels" and not labels:
            return f"the objective {plan.objective.name} reads no labels"
    return ""


def _chance(mask: Mask, other: Mask) -> float:
    """The overlap to expect of independent masks: with a and b kept of n in a weight, both keep a b / n."""
    others = other.counts()
    pairs = [(kept, others[name][0], total) for name, (kept, total) in mask.counts().items()]
    both = sum(a * b / n for a, b, n in pairs)
    either = sum(a + b for a, b, _ in pairs) - both
    return both / either if either else 1.0


def _row(name: str, outcomes: Sequence[Outcome]) -> CheckFacts:
    """Means over the seeds under which the variant was trained."""
    trained = [one.accuracy for one in outcomes if not math.isnan(one.accuracy)]
    return {
        "variant": name,
        "changed": VARIANTS[name],
        "kept": outcomes[0].mask.kept,
        "overlap": statistics.mean(one.overlap for one in outcomes),
        "chance": statistics.mean(one.chance for one in outcomes),
        "mean_jsv": statistics.mean(one.mean_jsv for one in outcomes),
        "effective_sparsity": statistics.mean(one.effective_sparsity for one in outcomes),
        "test_accuracy": statistics.mean(trained) if trained else math.nan,
        "accuracy_std": statistics.stdev(trained) if len(trained) > 1 else math.nan,
        "stopped": next((one.stopped for one in outcomes if one.stopped), ""),
    }


def _skipped(name: str, reason: str) -> CheckFacts:
    figures = "kept", "overlap", "chance", "mean_jsv", "effective_sparsity", "test_accuracy", "accuracy_std"
    row = {"variant": name, "changed": VARIANTS[name], **dict.fromkeys(figures), "skipped": reason}
    return cast("CheckFacts", row)
