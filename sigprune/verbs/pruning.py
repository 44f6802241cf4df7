"""Choosing a mask: score, allocate, select; once or in rounds."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from operator import length_hint
from types import ModuleType

import torch
from torch import Tensor

from sigprune.base.errors import BadInput, BadScores
from sigprune.base.family import Step
from sigprune.base.progress import Tell, Told, ignore
from sigprune.base.seeds import generator
from sigprune.base.tensors import Tensors
from sigprune.families.allocations import allocations
from sigprune.families.objectives import objectives
from sigprune.families.patterns import patterns
from sigprune.families.schedules import schedules
from sigprune.families.scores import own_schedule, scores
from sigprune.values.batch import BatchLike
from sigprune.values.layout import Shape
from sigprune.values.mask import Mask
from sigprune.values.problem import Problem
from sigprune.values.ranking import Ranking
from sigprune.values.view import View, expect_view

StepLike = str | Step | ModuleType


class DeadWeights(UserWarning):
    """Every entry of some weight has the score zero, so that the score cannot rank them."""


@dataclass(frozen=True)
class Method:
    """How a mask is chosen: one member of each family; ``schedule`` None takes the score's own."""

    score: StepLike = "snip"
    allocation: StepLike = "pooled"
    pattern: StepLike = "unstructured"
    schedule: StepLike | None = None
    objective: StepLike = "labels"


@dataclass(frozen=True, eq=False)
class Pruned:
    """A mask, and the weights whose scores were all zero in the first round."""

    mask: Mask
    dead: tuple[str, ...]


def prune(
    view: View,
    *,
    sparsity: float,
    score: StepLike = "snip",
    allocation: StepLike = "pooled",
    pattern: StepLike = "unstructured",
    schedule: StepLike | None = None,
    batches: Iterable[BatchLike] | None = None,
    objective: StepLike = "labels",
    seed: int = 0,
) -> Mask:
    """Choose which entries of the prunable weights to keep; the model is not changed.

    Args:
        view: the network; ``view.prunable`` says what may be removed.
        sparsity: fraction of the prunable entries to remove, in [0, 1). Exactly
            round(entries · (1 - sparsity)) are kept.
        score: what ranks the entries (higher = keep).
        allocation: how many entries each weight keeps.
        pattern: where the kept entries of a weight may sit.
        schedule: how many entries each round keeps; None takes the score's own.
        batches: what a data loader yields, read once per round; only for scores that need data.
        objective: the scalar that a data-driven score differentiates.
        seed: equal seeds give equal masks; it also breaks ties, so that position never does.

    Returns:
        Mask over ``view.prunable``. Cost: one score pass and two linear-time selections per round.

    Raises:
        BadInput: a sparsity outside [0, 1).
        NeedsData: a score or objective needs data that was not given.
        BadScores: a score is not finite or does not fit the weights.

    Warns:
        DeadWeights: all scores of a weight are zero (a closed gate, a dead unit): its entries are then kept
            or removed at random.

    Example:
        >>> from sigprune import describe, prune
        >>> layers = torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)
        >>> view = describe(torch.nn.Sequential(*layers))
        >>> batches = [(torch.randn(32, 8), torch.randint(0, 4, (32,)))]
        >>> mask = prune(view, sparsity=0.75, score="snip", batches=batches)
        >>> mask.kept, mask.total
        (48, 192)
    """
    method = Method(score, allocation, pattern, schedule, objective)
    pruned = choose_mask(view, sparsity, method, batches, seed=seed)
    if pruned.dead:
        warnings.warn(
            f"every entry of {len(pruned.dead)} weights has the score zero, first {pruned.dead[0]}: the "
            "score cannot rank them (a closed gate? then reinit_(view, ..., gates='open'); or a part that "
            "the output does not depend on)",
            DeadWeights,
            stacklevel=2,
        )
    return pruned.mask


def choose_mask(
    view: View,
    sparsity: float,
    method: Method,
    batches: Iterable[BatchLike] | None,
    *,
    seed: int,
    report: Tell = ignore,
) -> Pruned:
    """As :func:`prune`, with the weights whose scores are all zero returned instead of warned about.

    ``report`` is called with (batches read, batches in all), or with rounds for scores without data.
    """
    expect_view(view)
    if not 0 <= sparsity < 1:
        raise BadInput(f"sparsity is the fraction removed: expected 0 <= sparsity < 1, got {sparsity}")
    if isinstance(batches, Iterator):
        batches = list(batches)  # a later round reads them again
    shapes = view.prunable_shapes()
    if not shapes:
        raise BadInput("the view has no prunable weight")
    member = scores.choose(method.score)
    plan = schedules.choose(method.schedule or own_schedule(vars(member.member)))
    mask = everything = Mask.dense(shapes)
    target = round(mask.total * (1 - Fraction(str(sparsity))))
    dead: tuple[str, ...] = ()
    budgets = plan.member.kept(mask.total, target, **plan.options)
    each = max(length_hint(batches), 1) if member.member.NEEDS != "nothing" else 1
    for number, budget in enumerate(budgets):
        tell = partial(_tell, report, number * each, len(budgets) * each)
        data = None if batches is None else Told(batches, tell)
        draws = generator(seed, "score", str(number))
        problem = Problem(view, mask, draws, _bind_objective(method.objective), data)
        ranked = _checked(view, member.member.score(problem, **member.options), member.name)
        if number == 0:
            dead = tuple(name for name, values in ranked.items() if _is_dead(view, name, values))
        among = everything if member.member.REMOVED == "may return" else mask
        mask = _select(view, ranked, among, method, budget=budget, draw=str(number), seed=seed)
        tell(each)
    return Pruned(mask, dead)


def _tell(report: Tell, before: int, total: int, count: int) -> None:
    report(before + count, total)


def _bind_objective(step: StepLike) -> partial[Tensor]:
    choice = objectives.choose(step)
    return partial(choice.member.objective, **choice.options)


def _checked(view: View, ranked: Tensors, member: str) -> Tensors:
    """The scores in the order of the prunable names, in a dtype that selections work in."""
    shapes = view.prunable_shapes()
    if ranked.keys() != shapes.keys():
        name = sorted(ranked.keys() ^ shapes.keys())[0]
        raise BadScores(f"score {member!r}: {name} is missing or was not asked for")
    for name, shape in shapes.items():
        values = ranked[name]
        if tuple(values.shape) != shape:
            raise BadScores(f"score {member!r} of {name}: expected shape {shape}, got {tuple(values.shape)}")
        # a sum is the cheapest pass that sees every NaN and infinity; it may also overflow by itself
        if not bool(values.sum().isfinite()) and not bool(torch.isfinite(values).all()):
            bad = int((~torch.isfinite(values)).sum())
            raise BadScores(
                f"score {member!r} of {name}: {bad} of {values.numel()} entries are NaN or infinite; "
                f"{_cause(view)}"
            )
    return {name: ranked[name].detach().to(_selection_dtype(ranked[name])) for name in shapes}


def _cause(view: View) -> str:
    """Why scores are not finite, and what to do."""
    for name, parameter in view.params().items():
        if not bool(torch.isfinite(parameter).all()):
            return f"the parameter {name} itself holds NaN or infinity: load or draw its values anew"
    return "the score overflows: lower the init gain, look at the spectrum after init and at the data"


def _selection_dtype(values: Tensor) -> torch.dtype:
    return values.dtype if values.dtype is torch.float64 else torch.float32


def _is_dead(view: View, name: str, values: Tensor) -> bool:
    """A bias is zero at initialisation and then has zero scores by definition: no finding."""
    return name in {w.name for w in view.weights} and not bool(values.any())


def _select(
    view: View, ranked: Tensors, mask: Mask, method: Method, *, budget: int, draw: str, seed: int
) -> Mask:
    """The best ``budget`` entries of those still kept; ``draw`` names the random stream that breaks ties."""
    capacity = {name: kept for name, (kept, _) in mask.counts().items()}
    still = {
        name: values
        if capacity[name] == values.numel()
        else values.masked_fill(~mask.keep[name].to(values.device), -torch.inf)
        for name, values in ranked.items()
    }
    allocation, pattern = allocations.choose(method.allocation), patterns.choose(method.pattern)
    ranking = Ranking(still, capacity, _block_shapes(view), budget, generator(seed, "allocate", draw))
    counts = allocation.member.allocate(ranking, **allocation.options)
    keep = {}
    for name, count in counts.items():
        ties = generator(seed, "ties", f"{name}/{draw}")
        keep[name] = pattern.member.select(still[name], count, ties, **pattern.options)
    return Mask(keep)


def _block_shapes(view: View) -> dict[str, Shape]:
    """Prunable name -> shape of its first block; a bias is its own block."""
    meta = {name: torch.empty(shape, device="meta") for name, shape in view.prunable_shapes().items()}
    weights = {w.name: w for w in view.weights}
    return {
        name: tuple(next(weights[name].layout.blocks(tensor)).shape if name in weights else tensor.shape)
        for name, tensor in meta.items()
    }


def apply_(view: View, mask: Mask) -> None:
    """Set the removed entries of the model to +0.0, in place.

    Example:
        >>> from sigprune import apply_, describe, prune
        >>> view = describe(torch.nn.Linear(4, 4))
        >>> apply_(view, prune(view, sparsity=0.5, score="magnitude"))
        >>> int((view.module.weight == 0).sum())
        8
    """
    expect_view(view)
    mask.apply_(view.params())
