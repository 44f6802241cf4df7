"""Budgets: how sparse a network has to be for a given number of parameters (sculpting)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sigprune.base.errors import BadInput
from sigprune.base.registry import JsonValue
from sigprune.models.opening import library_of, open_model, parse_ref
from sigprune.values.view import View, expect_view


def sparsity_for(view: View, parameters: int) -> float:
    """The sparsity at which a network keeps exactly so many parameters in all.

    What is not prunable (norms, biases, embeddings and whatever was excluded) counts and stays; the rest of
    the budget is what :func:`sigprune.prune` may keep. Tied tensors count once.

    Args:
        view: the network, wider or deeper than the budget.
        parameters: that the pruned network has, zeros not counted.

    Returns:
        Fraction of the prunable entries to remove, in [0, 1); ``prune`` keeps exactly the rest.

    Raises:
        BadInput: the network has fewer parameters, or more that may not be removed.

    Source: sculpting arbitrary networks to a budget, Lee et al. 2020, arXiv 1906.06307, section 5.

    Example:
        >>> from sigprune import describe, prune, sparsity_for
        >>> view = describe(torch.nn.Linear(64, 10))
        >>> prune(view, sparsity=sparsity_for(view, 74), score="magnitude").kept  # and 10 biases
        64
    """
    expect_view(view, values=False)
    total = sum(p.numel() for p in view.module.parameters())
    prunable = sum(torch.Size(shape).numel() for shape in view.prunable_shapes().values())
    kept = parameters - (total - prunable)
    if kept <= 0:
        raise BadInput(
            f"a budget of {parameters:,} parameters is too low for {view.architecture}: {total - prunable:,}"
            " of its parameters may not be removed (norms, biases, what prune.include and exclude leave out)"
        )
    if kept > prunable:
        raise BadInput(
            f"a budget of {parameters:,} parameters: {view.architecture} has only {total:,}; "
            "take a wider or deeper model"
        )
    return 1 - kept / prunable


def parameters_of(ref: str, args: Mapping[str, JsonValue] | None = None) -> int:
    """The number of parameters of another model; no weights are drawn or loaded for it.

    Args:
        ref: as :func:`sigprune.open_model` takes it.
        args: likewise.

    Example:
        >>> from sigprune.pruning.budget import parameters_of
        >>> parameters_of("timm:resnet18", {"num_classes": 10})
        11181642
    """
    if library_of(parse_ref(ref)) == "torch":
        model = open_model(ref, args=args)
    else:
        with torch.device("meta"):
            model = open_model(ref, args=args)
    return sum(p.numel() for p in model.parameters())
