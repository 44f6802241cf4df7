"""End to end on real values: small members of both libraries, re-initialised, pruned, saved and loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sigprune.base.tensors import digest
from sigprune.values.orthogonality import floor, residual
from sigprune.values.view import View
from sigprune.verbs.checkpoint import load, save
from sigprune.verbs.initialising import reinit_
from sigprune.verbs.opening import describe, open_model
from sigprune.verbs.pruning import apply_, prune
from tests.catalogue import TYPES
from tests.shrinking import shrunk
from tests.test_shrinking import VERSION

# Of most module files of timm the smallest architecture that runs in two seconds here, and all test models.
TIMM = (
    "cait_xxs24_224", "coat_tiny", "convit_tiny", "cpubone_nano", "crossvit_tiny_240", "cs3darknet_focus_s",
    "cspnext_tiny", "dla46x_c", "dpn48b", "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0",
    "efficientvim_m1", "efficientvit_b0", "efficientvit_m0", "ese_vovnet19b_slim_dw",
    "eva02_tiny_patch14_224", "fasternet_t0", "iformer_t", "inception_next_atto", "lcnetv2_small",
    "legacy_seresnet18", "levit_128s", "mobilenetv3_small_050", "pit_ti_224", "poolformerv2_s12",
    "pvt_v2_b0", "regnetx_002", "repghostnet_050", "repvit_m1", "resnetv2_18", "rexnet_100", "shvit_s1",
    "starnet_s050", "swiftformer_xs", "test_byobnet", "test_coatnet", "test_convnext", "test_efficientnet",
    "test_mambaout", "test_nfnet", "test_resnet", "test_vit", "test_vit_relpos", "tiny_vit_5m_224",
    "visformer_tiny",
)  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the libraries' own deprecations


def check_blocks_are_orthogonal(view: View) -> None:
    """Every block of every weight, in float64."""
    params = view.params()
    for weight in view.weights:
        if weight.role != "embedding":
            for block in weight.layout.blocks(params[weight.name]):
                matrix = block.flatten(1)
                distance = float(
                    residual(matrix[None])[0] - floor(torch.ones_like(matrix[None], dtype=torch.bool))[0]
                )
                assert abs(distance) < 1e-5, weight.name


def check_checkpoint(view: View, folder: Path, into: nn.Module | None = None) -> None:
    """Pruned to a tenth, saved and loaded: the same count, mask and bits."""
    mask = prune(view, sparsity=0.9, score="magnitude")
    assert mask.kept == round(mask.total * 0.1)
    apply_(view, mask)
    save(folder, view, mask)
    checkpoint = load(folder, into=into)
    assert checkpoint.mask == mask
    assert digest(checkpoint.model.state_dict()) == digest(view.module.state_dict())


@pytest.mark.parametrize("name", TIMM)
def test_timm(name, tmp_path):
    model = open_model(f"timm:{name}").double()
    view = describe(model, batchnorm="eval")
    with torch.no_grad():
        own = model.eval()(*view.example.inputs.values())
        torch.testing.assert_close(view.forward({}, view.example), view.read_output(own))
    reinit_(view)
    check_blocks_are_orthogonal(view)
    leaves = {w.name: view.params()[w.name].clone().requires_grad_() for w in view.weights}
    view.forward(leaves, view.example).square().mean().backward()
    dead = [weight for weight, leaf in leaves.items() if leaf.grad is None or not leaf.grad.any()]
    assert not dead, "with open gates every weight has a gradient"
    check_checkpoint(view, tmp_path / name)


@pytest.mark.skipif(VERSION < (5, 23), reason="the small models are of transformers 5.23")
@pytest.mark.parametrize("model_type", TYPES[::3])
def test_transformers(model_type, tmp_path):
    """A third of all types: text, vision, sound, several of them, experts."""
    model = shrunk(model_type).double()
    view = describe(model, example={"unused": torch.zeros(1)})  # examples have tests of their own
    reinit_(view)
    check_blocks_are_orthogonal(view)
    check_checkpoint(view, tmp_path / "out", into=shrunk(model_type).double())
