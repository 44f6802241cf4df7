"""Transfer of sparsity: a mask that was found elsewhere, for the network at hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

from sigprune.base.errors import BadInput
from sigprune.pruning.choose import Method, StepLike, rescore
from sigprune.pruning.selector import expect_no_empty_filter
from sigprune.values.batch import BatchLike, expect_batches
from sigprune.values.mask import Mask
from sigprune.values.view import View, expect_view


def transfer(
    view: View,
    mask: Mask,
    *,
    score: StepLike = "snip",
    pattern: StepLike | None = None,
    objective: StepLike = "labels",
    batches: Iterable[BatchLike] | None = None,
    seed: int = 0,
) -> Mask:
    """A mask found on other data or taken from a checkpoint, for this network; the model is not changed.

    Weights of equal names and shapes take their part of the mask as it is. A classifier may have another
    number of classes: its part is then chosen anew by ``score`` at the density that it had, with the other
    weights already pruned.

    Args:
        view: the network; ``view.prunable`` says what the mask has to cover.
        mask: found for the same architecture.
        score: what ranks the entries of such classifiers.
        pattern: where their kept entries may sit; None takes what fits the score.
        objective: the scalar that a data-driven score differentiates.
        batches: what a data loader yields, if the score needs data.
        seed: equal seeds give equal masks.

    Returns:
        Mask over ``view.prunable``. Cost: nothing, or one score pass for classifiers of another shape.

    Raises:
        BadInput: the mask lacks a prunable weight, has one that is not prunable here, or a weight other than
            a classifier has another shape.
        NeedsData: a classifier has to be scored, and the score needs data.

    Source: masks found on one data set serve another, Lee et al. 2020, arXiv 1906.06307, section 5.

    Example:
        >>> import torch
        >>> from sigprune import describe, prune, transfer
        >>> view = describe(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)))
        >>> mask = prune(view, sparsity=0.5, score="magnitude")
        >>> wider = describe(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 6)))
        >>> moved = transfer(wider, mask, score="magnitude")
        >>> torch.equal(moved.keep["0.weight"], mask.keep["0.weight"]), moved.keep["1.weight"].shape
        (True, torch.Size([6, 8]))
    """
    expect_view(view, values=False)
    expect_batches(batches)
    shapes = view.prunable_shapes()
    if not shapes.keys() & mask.keep.keys():
        raise BadInput(
            f"the mask is of another architecture: it prunes {next(iter(mask.keep), 'nothing')}, "
            f"{view.architecture} has {next(iter(shapes), 'nothing')}"
        )
    for name in sorted(shapes.keys() ^ mask.keep.keys()):
        if name in shapes:
            raise BadInput(f"the mask says nothing of {name}: exclude it (prune.exclude) to leave it dense")
        raise BadInput(
            f"the mask prunes {name}, which is not prunable here (prune.include, exclude and heads)"
        )
    other = [name for name, shape in shapes.items() if tuple(mask.keep[name].shape) != shape]
    heads = {weight.name for weight in view.weights if weight.role == "head"}
    heads |= {weight.bias for weight in view.weights if weight.role == "head" and weight.bias is not None}
    for name in other:
        if name not in heads:
            raise BadInput(
                f"the mask of {name} has shape {tuple(mask.keep[name].shape)}, the weight {shapes[name]}: "
                "only classifiers may differ; the mask is of another architecture"
            )
    counts = mask.counts()
    kept = {name: round(Fraction(*counts[name]) * math.prod(shapes[name])) for name in other}
    if isinstance(batches, Iterator):
        batches = list(batches)
    start = Mask.dense({name: shapes[name] for name in other})
    whole = Mask({name: start.keep.get(name, mask.keep[name]) for name in shapes})
    method = Method(score, pattern=pattern, objective=objective)
    moved = rescore(view, whole, kept, method, batches, seed=seed) if other else whole
    expect_no_empty_filter(view, moved)
    return moved
