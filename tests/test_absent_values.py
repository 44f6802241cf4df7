"""One check and one message wherever a verb is given a model whose values are not there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import remove_hook_from_submodules
from torch import nn

import sigprune
from sigprune.base.errors import BadInput
from sigprune.models.opening import describe
from sigprune.propagation.reachability import effective
from sigprune.pruning.choose import Method, choose_mask
from sigprune.training.config import TrainConfig
from sigprune.training.loop import fit
from sigprune.values.mask import Mask
from sigprune.values.view import View
from tests.support.networks import mlp, seeded

BATCH = (torch.linspace(-1, 1, 36).reshape(3, 12), torch.tensor([0, 1, 2]))


def mask_of(view: View) -> Mask:
    return Mask({name: torch.rand(shape) > 0.5 for name, shape in view.prunable_shapes().items()})


def held(view: View) -> None:
    optimizer = torch.optim.SGD(view.module.parameters(), lr=0.1)
    with sigprune.hold(view, mask_of(view), optimizer):
        pass


def wider(view: View) -> Mask:
    keep = dict(mask_of(view).keep)
    keep["4.weight"] = keep["4.weight"][:3]  # a classifier of other classes has to be scored
    return Mask(keep)


VERBS: dict[str, Callable[[View, Path], object]] = {
    "reinit_": lambda view, _: sigprune.reinit_(view),
    "jacobian": lambda view, _: sigprune.jacobian(view, BATCH),
    "calibrate_": lambda view, _: sigprune.calibrate_(view, BATCH),
    "profile": lambda view, _: sigprune.profile(view, BATCH),
    "layer_isometry": lambda view, _: sigprune.layer_isometry(view),
    "verify": lambda view, _: sigprune.verify(view, BATCH),
    "prune": lambda view, _: sigprune.prune(view, sparsity=0.5, score="random"),
    "prune by data": lambda view, _: sigprune.prune(view, sparsity=0.5, batches=[BATCH]),
    "transfer": lambda view, _: sigprune.transfer(view, wider(view), score="random"),
    "apply_": lambda view, _: sigprune.apply_(view, mask_of(view)),
    "restore_": lambda view, _: sigprune.restore_(view, mask_of(view)),
    "hold": lambda view, _: held(view),
    "save": lambda view, folder: sigprune.save(folder / "saved", view, mask_of(view)),
    "effective": lambda view, _: effective(view, mask_of(view)),
    "fit": lambda view, _: fit(view, mask_of(view), BATCH, None, TrainConfig(epochs=1)),
}
SHAPES_ONLY = {"sparsity_for"}
"""What reads no value."""


def on_meta(_: Path) -> nn.Module:
    with torch.device("meta"):
        return mlp()


def partly_on_disk(folder: Path) -> nn.Module:
    module, places = seeded(mlp()), {"0": "cpu", "1": "cpu", "2": "disk", "3": "cpu", "4": "cpu"}
    return dispatch_model(module, places, main_device="cpu", offload_dir=folder, force_hooks=True)


def with_a_buffer_on_meta(_: Path) -> nn.Module:
    module = seeded(mlp())
    module.register_buffer("table", torch.ones(3, device="meta"), persistent=False)
    return module


WAYS: dict[str, tuple[Callable[[Path], nn.Module], str]] = {
    "built on meta": (on_meta, r"6 of 6 tensors of Sequential have no values, first 0\.weight"),
    "offloaded to memory": (lambda _: cpu_offload(seeded(mlp()), "cpu"), r"6 of 6 .*first 0\.weight"),
    "offloaded to disk": (lambda folder: disk_offload(seeded(mlp()), folder, "cpu"), r"6 of 6 .*first 0\.w"),
    "partly on disk": (partly_on_disk, r"2 of 6 .*first 2\.weight"),
    "a buffer on meta": (with_a_buffer_on_meta, r"1 of 7 .*first table"),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("way", WAYS)
def test_every_verb_says_that_there_are_no_values(way, verb, tmp_path):
    build, message = WAYS[way]
    view = describe(build(tmp_path))
    with pytest.raises(BadInput, match=f"{message}.*meta device.*remove_hook_from_submodules"):
        VERBS[verb](view, tmp_path)


def test_every_public_function_of_a_view_is_among_them():
    functions = {name: getattr(sigprune, name) for name in sigprune.__all__}
    plain = {name: f for name, f in functions.items() if inspect.isfunction(f)}
    takes = {name for name, f in plain.items() if "view" in inspect.signature(f).parameters}
    assert takes == (VERBS.keys() & functions.keys()) | SHAPES_ONLY


def test_what_reads_no_value_needs_none(tmp_path):
    view = describe(on_meta(tmp_path))
    assert sigprune.sparsity_for(view, 300) == sigprune.sparsity_for(describe(mlp()), 300)
    mask = mask_of(view)
    assert sigprune.transfer(view, mask) == mask


def test_values_that_accelerate_gives_back_are_worked_with():
    module = cpu_offload(seeded(mlp()), "cpu")
    remove_hook_from_submodules(module)
    expected = sigprune.prune(describe(seeded(mlp())), sparsity=0.5, score="magnitude")
    assert sigprune.prune(describe(module), sparsity=0.5, score="magnitude") == expected


def test_what_is_no_view_is_still_refused():
    with pytest.raises(BadInput, match="expected a View, got Sequential"):
        choose_mask(mlp(), 0.5, Method("random"), None, seed=0)
