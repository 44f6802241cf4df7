"""The mask of an experiment: chosen by a score, or taken from an earlier run."""

from __future__ import annotations

from collections.abc import Callable

from sigprune.base.progress import Tell
from sigprune.experiment_setting import Setting
from sigprune.verbs.fitting import Batches
from sigprune.verbs.pruning import Method, Pruned, choose_mask
from sigprune.verbs.transferring import transfer

Change = Callable[[Batches], Batches]


def mask_for(setting: Setting, tell: Tell, *, lowest: bool = False, change: Change | None = None) -> Pruned:
    """The mask that the recipe asks for; the model is not changed.

    Args:
        setting: view, data and recipe.
        tell: told how far scoring is.
        lowest: keep the lowest scores of every weight instead of the highest (a sanity check).
        change: what to do to the examples before they are scored with (a sanity check).
    """
    recipe = setting.recipe
    plan = recipe.prune
    method = Method(plan.score, plan.allocation, plan.pattern, plan.schedule, plan.objective, lowest)
    everything = len(setting.scored.train[1])
    count = everything if plan.batches == "all" else int(plan.batches) * plan.batch_size
    batches = setting.batches("prune", count, plan.batch_size)
    given = batches if change is None else change(batches)
    view, seed = setting.view, recipe.seed
    if setting.mask is not None:
        return Pruned(transfer(view, setting.mask, method=method, batches=given, seed=seed), ())
    return choose_mask(view, setting.sparsity(), method, given, seed=seed, report=tell)
