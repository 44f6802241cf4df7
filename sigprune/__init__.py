"""sigprune: prune hub architectures, and see that signal still flows through them.

The public names, imported when first used (``import sigprune`` imports no torch):

==================  =====================================================================
open_model          a model by name: timm, transformers, an import path, a Hub id, a folder
describe            a model -> View
reinit_             fresh, orthogonal values for every weight; gates opened
jacobian            the input-output Jacobian of a view, as a linear operator
measure             its singular values
calibrate_          scale the network until they have the wanted mean square
profile             the gain of the signal, stage by stage
layer_isometry      the singular values of every weight, and of every convolution as a map
verify              findings: finite output, singular values in bounds, what pruning has cut off
prune               choose a Mask
transfer            take over a mask that was found elsewhere
sparsity_for        how sparse a network is for a budget of parameters
apply_              set the removed entries to zero
restore_            move the kept entries towards isometry
hold                keep the removed entries at zero while an optimizer trains
save, load          sparse safetensors checkpoints, of folders and of the Hub
push, pull          to the Hub and back
convert             between dense and packed, file by file
run                 a whole experiment from a recipe
View, Mask, Step, Recipe, InitPolicy   the values that go in and out
==================  =====================================================================
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sigprune.verbs.native import install

if TYPE_CHECKING:
    from sigprune.base.family import Step
    from sigprune.effects.hub import pull, push
    from sigprune.experiment import run
    from sigprune.recipe import Recipe
    from sigprune.values.mask import Mask
    from sigprune.values.operator import jacobian
    from sigprune.values.view import View
    from sigprune.verbs.budgeting import sparsity_for
    from sigprune.verbs.calibrating import calibrate_
    from sigprune.verbs.checkpoint import load, save
    from sigprune.verbs.converting import convert
    from sigprune.verbs.holding import hold
    from sigprune.verbs.init_policy import InitPolicy
    from sigprune.verbs.initialising import reinit_
    from sigprune.verbs.isometry import restore_
    from sigprune.verbs.layerwise import layer_isometry
    from sigprune.verbs.measuring import measure
    from sigprune.verbs.opening import describe, open_model
    from sigprune.verbs.profiling import profile
    from sigprune.verbs.pruning import apply_, prune
    from sigprune.verbs.transferring import transfer
    from sigprune.verbs.verifying import verify

__version__ = "0.1.0"

install()

_HOMES = {
    "InitPolicy": "verbs.init_policy",
    "Mask": "values.mask",
    "Recipe": "recipe",
    "Step": "base.family",
    "View": "values.view",
    "apply_": "verbs.pruning",
    "calibrate_": "verbs.calibrating",
    "convert": "verbs.converting",
    "describe": "verbs.opening",
    "hold": "verbs.holding",
    "jacobian": "values.operator",
    "layer_isometry": "verbs.layerwise",
    "load": "verbs.checkpoint",
    "measure": "verbs.measuring",
    "open_model": "verbs.opening",
    "profile": "verbs.profiling",
    "prune": "verbs.pruning",
    "pull": "effects.hub",
    "push": "effects.hub",
    "reinit_": "verbs.initialising",
    "restore_": "verbs.isometry",
    "run": "experiment",
    "save": "verbs.checkpoint",
    "sparsity_for": "verbs.budgeting",
    "transfer": "verbs.transferring",
    "verify": "verbs.verifying",
}

__all__ = [
    "InitPolicy",
    "Mask",
    "Recipe",
    "Step",
    "View",
    "apply_",
    "calibrate_",
    "convert",
    "describe",
    "hold",
    "jacobian",
    "layer_isometry",
    "load",
    "measure",
    "open_model",
    "profile",
    "prune",
    "pull",
    "push",
    "reinit_",
    "restore_",
    "run",
    "save",
    "sparsity_for",
    "transfer",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'sigprune' has no attribute {name!r}")
    return getattr(import_module(f"sigprune.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
