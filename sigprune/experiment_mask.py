"""The mask of an experiment: chosen by a score, or taken from an earlier run."""

from __future__ import annotations

from collections.abc import Callable

from sigprune.base.progress import Tell
from sigprune.experiment_setting import Setting, method_of
from sigprune.verbs.fitting import Batches
from sigprune.verbs.pruning import Pruned, choose_mask
from sigprune.verbs.transferring import transfer

Change = Callable[[Batches], Batches]


def mask_for(setting: Setting, tell: Tell, change: Change | None = None) -> Pruned:
    """The mask that the recipe asks for; the model is not changed.

    Args:
        setting: view, data and recipe.
        tell: told how far scoring is.
        change: what to do to the examples before they are scored with (a sanity check).
    """
    view, seed, method = setting.view, setting.recipe.seed, method_of(setting.recipe)
    batches = setting.scoring()
    given = batches if change is None else change(batches)
    if setting.mask is not None:
        mask = transfer(
            view,
            setting.mask,
            score=method.score,
            pattern=method.pattern,
            objective=method.objective,
            batches=given,
            seed=seed,
        )
        return Pruned(mask)
    return choose_mask(view, setting.sparsity(), method, given, seed=seed, report=tell)
