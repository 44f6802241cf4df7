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
View, Mask, MemberSpec, Recipe, InitPolicy   the values that go in and out
==================  =====================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sigprune.base import renamed
from sigprune.base.lazy import lazy_names
from sigprune.checkpoint import transformers_hook

if TYPE_CHECKING:
    from sigprune.base.registry import MemberSpec
    from sigprune.checkpoint.conversion import convert
    from sigprune.checkpoint.read import load
    from sigprune.checkpoint.save import save
    from sigprune.experiment.runner import run
    from sigprune.hub.push_pull import pull, push
    from sigprune.init.policy import InitPolicy
    from sigprune.init.reinit import reinit_
    from sigprune.models.opening import describe, open_model
    from sigprune.propagation.calibration import calibrate_
    from sigprune.propagation.findings import verify
    from sigprune.propagation.gain_profile import profile
    from sigprune.propagation.layerwise import layer_isometry
    from sigprune.propagation.measurement import measure
    from sigprune.propagation.repair import restore_
    from sigprune.pruning.budget import sparsity_for
    from sigprune.pruning.choose import apply_, prune
    from sigprune.pruning.mask_transfer import transfer
    from sigprune.pruning.masked_optimizer import hold
    from sigprune.recipe.recipe import Recipe
    from sigprune.values.mask import Mask
    from sigprune.values.operator import jacobian
    from sigprune.values.view import View

__version__ = "0.1.0"

renamed.install()
transformers_hook.install()

_HOMES = {
    "InitPolicy": "init.policy",
    "Mask": "values.mask",
    "MemberSpec": "base.registry",
    "Recipe": "recipe.recipe",
    "View": "values.view",
    "apply_": "pruning.choose",
    "calibrate_": "propagation.calibration",
    "convert": "checkpoint.conversion",
    "describe": "models.opening",
    "hold": "pruning.masked_optimizer",
    "jacobian": "values.operator",
    "layer_isometry": "propagation.layerwise",
    "load": "checkpoint.read",
    "measure": "propagation.measurement",
    "open_model": "models.opening",
    "profile": "propagation.gain_profile",
    "prune": "pruning.choose",
    "pull": "hub.push_pull",
    "push": "hub.push_pull",
    "reinit_": "init.reinit",
    "restore_": "propagation.repair",
    "run": "experiment.runner",
    "save": "checkpoint.save",
    "sparsity_for": "pruning.budget",
    "transfer": "pruning.mask_transfer",
    "verify": "propagation.findings",
}

__all__ = [
    "InitPolicy",
    "Mask",
    "MemberSpec",
    "Recipe",
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


__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
