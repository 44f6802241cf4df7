"""Masks found elsewhere: taken as they are, classifiers of another size chosen anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sigprune import Mask, apply_, describe, prune, save, transfer
from sigprune.base.errors import BadInput, CheckpointError, NeedsData
from sigprune.checkpoint.read import load_mask
from tests.support.hub import client, serving
from tests.support.networks import mlp


def batches(classes: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draws = torch.Generator().manual_seed(0)
    return [(torch.randn(32, 16, generator=draws), torch.arange(32) % classes)]


@pytest.fixture
def found() -> Mask:
    """Half of every kind of entry of a network with 10 classes."""
    return prune(describe(mlp([16, 24, 10])), sparsity=0.7, score="random", seed=3)


def test_equal_shapes_take_the_mask_as_it_is(found):
    assert transfer(describe(mlp([16, 24, 10])), found) == found


def test_a_classifier_of_another_size_keeps_its_density(found):
    view = describe(mlp([16, 24, 6]))
    head, (body,) = view.weights[-1].name, [w.name for w in view.weights[:-1]]
    moved = transfer(view, found, batches=batches(6))
    assert torch.equal(moved.keep[body], found.keep[body])
    kept, total = found.counts()[head]
    assert moved.counts()[head] == (round(kept / total * 144), 144)


def test_it_is_scored_with_the_others_pruned(found):
    """SNIP of the masked network, by hand."""
    view = describe(mlp([16, 24, 6]))
    head, body = view.weights[-1].name, view.weights[0].name
    moved = transfer(view, found, batches=batches(6))
    pruned = describe(mlp([16, 24, 6]))
    pruned.module.load_state_dict(view.module.state_dict())
    apply_(pruned, Mask({body: found.keep[body], head: torch.ones(6, 24, dtype=torch.bool)}))
    inputs, labels = batches(6)[0]
    nn.functional.cross_entropy(pruned.module(inputs), labels).backward()
    weight = pruned.module.get_parameter(head)
    scores = (weight * weight.grad).abs().flatten()
    best = scores.topk(moved.counts()[head][0]).indices
    assert set(moved.keep[head].flatten().nonzero().squeeze(1).tolist()) == set(best.tolist())


def test_a_data_free_score_needs_no_batches(found):
    view = describe(mlp([16, 24, 6]))
    before = {name: p.clone() for name, p in view.module.named_parameters()}
    transfer(view, found, score="synflow")
    with pytest.raises(NeedsData):
        transfer(view, found)
    assert all(torch.equal(before[name], p) for name, p in view.module.named_parameters())


def test_masks_of_other_networks_are_refused(found):
    with pytest.raises(BadInput, match=r"shape \(24, 16\), the weight \(25, 16\): only classifiers may"):
        transfer(describe(mlp([16, 25, 10])), found)
    with pytest.raises(BadInput, match=r"the mask says nothing of 4\.weight: exclude it"):
        transfer(describe(mlp([16, 24, 10, 10])), found)
    with pytest.raises(BadInput, match=r"of another architecture: it prunes conv, Sequential has 0\.weight"):
        transfer(describe(mlp([16, 24, 10])), Mask({"conv": torch.ones(3, dtype=torch.bool)}))
    first = next(iter(found.keep))
    with pytest.raises(BadInput, match=f"the mask prunes {first}, which is not prunable here"):
        transfer(describe(mlp([16, 24, 10]), exclude=(first,)), found)


def test_the_mask_of_a_checkpoint(found, tmp_path):
    view = describe(mlp([16, 24, 10]))
    apply_(view, found)
    save(tmp_path / "there", view, found)
    assert load_mask(tmp_path / "there") == found
    with pytest.raises(BadInput, match="no such folder"):
        load_mask(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="no such folder; expected one that sigprune wrote"):
        load_mask("timm:resnet18")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds neither"):
        load_mask(tmp_path / "empty")


LOAD = """
import sys
from sigprune.base.errors import BadInput
from sigprune.checkpoint.read import load_mask

for ref in sys.argv[1:]:
    try:
        print(load_mask(ref).digest())
    except BadInput as error:
        print(error)
"""


def test_the_mask_of_a_repository(found, tmp_path):
    """Through the real client; only the packed file is fetched."""
    view = describe(mlp([16, 24, 10]))
    apply_(view, found)
    for name in ("mlp", "mlp@v1"):
        save(tmp_path / "models" / "someone" / name, view, found)
    (tmp_path / "models" / "someone" / "plain").mkdir()
    (tmp_path / "models" / "someone" / "plain" / "config.json").write_text("{}")
    refs = ("someone/mlp", "someone/mlp@v1", "someone/plain", "someone/nothing")
    with serving(tmp_path) as environment:
        done = client(environment, LOAD, *refs)
    assert (done.returncode, done.stderr) == (0, "")
    own, revised, plain, nothing = done.stdout.splitlines()
    assert own == revised == found.digest()
    assert "holds neither model.sparse.safetensors nor model.safetensors.index.sparse.json" in plain
    assert "no such repository" in nothing
    fetched = {path.name for path in Path(environment["HF_HOME"]).rglob("*.safetensors")}
    assert fetched == {"model.sparse.safetensors"}
