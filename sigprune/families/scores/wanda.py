"""|weight| times the 2-norm of the inputs that it meets: for pretrained models, without gradients."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sigprune.base import distributed
from sigprune.base.errors import UnsupportedModel
from sigprune.base.tensors import Tensors
from sigprune.families.scores._uses import Uses
from sigprune.families.scores._watching import Watching
from sigprune.values.problem import Problem
from sigprune.values.view import View

NEEDS: Literal["inputs"] = "inputs"
PAPER = "Sun et al. 2024 (Wanda), arXiv 2306.11695, equation 1"
SCHEDULE = "oneshot"
REMOVED: Literal["stay"] = "stay"
COMPARABLE: Literal["row"] = "row"


def score(problem: Problem) -> Tensors:
    """|W_ij| · ‖X_j‖, the norm over all examples and positions (tokens, pixels) of all batches given.

    X_j is what the entry is multiplied with: in a convolution the inputs under its tap, padding included as
    zeros; in a table of embeddings one for each time that its row is looked up (positions once per batch);
    for a bias the constant 1. A weight that is used several times (tied, recurrent) meets the inputs of all
    uses. Positions that a mask hides further on in the network count: pass texts without padding. An expert
    that no token was sent to has the score zero (pruning then ranks it by magnitude). Weights that their
    module standardises or normalises count as the forward pass uses them.

    The paper compares entries within each output, never across: allocation ``uniform`` with the pattern
    ``per_row``, the default, is its method (``n_m`` its structured one).

    Cost: one forward pass per batch without a graph, and for each convolution and matrix product the
    gradient of a map with one output; one extra copy of the prunable weights, in float32 at least.

    Raises:
        NeedsData: no batch was given.
        UnsupportedModel: the inputs of a weight cannot be observed: it is changed before it is used, or used
            by none of torch's linear maps, convolutions, attention, recurrences and embeddings; or the
            network does not use it at all.
    """
    view, leaves, names = problem.view, problem.leaves(), list(problem.mask.keep)
    uses = Uses(view, leaves, names)
    with view.eval_mode(), torch.enable_grad():
        for batch in problem.batches():
            with Watching(uses):
                output = view.forward(leaves, batch, differentiated=False)
            uses.activation(output)
    distributed.average_(uses.sums.values())
    _expect_all(view, uses, names)
    values = {name: leaf.detach() for name, leaf in leaves.items()}
    return {name: _sizes(view, name, values).mul(uses.sums.pop(name).sqrt_()) for name in names}


def _sizes(view: View, name: str, values: Tensors) -> Tensor:
    """|W| as the forward pass uses it, in float32 at least."""
    used = values[name]
    for weight in view.weights:
        if weight.name == name and (weight.standardised is not None or weight.magnitude is not None):
            used = weight.effective(values)
    return used.abs().to(torch.promote_types(values[name].dtype, torch.float32))


def _expect_all(view: View, uses: Uses, names: list[str]) -> None:
    experts = {name for w in view.weights if w.role == "expert" for name in (w.name, w.bias)}
    for name in names:
        if name not in uses.seen and name not in experts:
            raise UnsupportedModel(
                f"no input of {name} was observed: the network does not use it for these batches, or only "
                "where no gradient is followed; exclude it (view.select, recipe: prune.exclude)"
            )
