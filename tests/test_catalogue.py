"""Every architecture of timm and every type of transformers: no parameter is missed, no entry counted twice.

Each parameter is a Weight whose blocks cover every entry exactly once, or skipped with a reason; large
matrices are skipped only for the reasons reviewed below.
"""

from __future__ import annotations

import math
import os

import pytest
import timm
import torch
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from sigprune.families.adapters._shared import survey
from sigprune.values.layout import fan_in, fan_out
from sigprune.verbs.opening import describe
from tests.shrinking import LEFT_OUT, shrunk
from tests.test_shrinking import VERSION

# Reasons for which a parameter of rank 2 or more may hold over 1 % of a model's entries.
REVIEWED = {
    "position table": "added to activations or to attention scores, entry by entry: no product of matrices",
    "token": "learned inputs: tokens, queries, prompts",
    "state": "decay of a recurrence, entry by entry: a zero is not the absence of a connection",
    "router": "chooses experts or mixes residual streams; small, and not to be pruned by default",
    "norm scale": "of a norm over several axes",
    "norm shift": "of a norm over several axes",
    "gate": "a scale of several axes that closes a branch",
}
# Parameters skipped as "other" that act entry by entry, by the end of their names, with how they are used.
OTHERS = {
    "alpha": "timm EfficientViM: mixes two activations, channel by channel",
    "freqs": "timm RoPE-mixed: learned frequencies of rotary embeddings",
    "static_weight": "Inkling: depthwise taps that are added to dynamic ones",
    "index_kpool_compress_gate": "GLM: a gate of the indexer, initialised to ones",
    "scale": "scales of heads, entry by entry",
}


def check_partition(module: nn.Module, weights: list, skipped: dict[str, str]) -> None:
    parameters = dict(module.named_parameters())
    total = sum(p.numel() for p in parameters.values())
    names = [w.name for w in weights]
    assert sorted([*names, *skipped]) == sorted(parameters), "each parameter once"
    for weight in weights:
        check_blocks(weight, parameters[weight.name])
    for name, reason in skipped.items():
        tensor = parameters[name]
        if tensor.dim() < 2 or tensor.numel() <= 0.01 * total:
            continue
        known = reason in REVIEWED or (reason == "other" and name.rpartition(".")[2] in OTHERS)
        assert known, f"{name} {tuple(tensor.shape)} is skipped as {reason!r}: it may be a matrix"


def check_blocks(weight, tensor: torch.Tensor) -> None:
    """Every entry lies in exactly one block, and the fans are those of the block."""
    assert weight.shape == tuple(tensor.shape)
    entries = torch.empty_strided(tensor.shape, tensor.stride(), device="meta")
    blocks = list(weight.layout.blocks(entries))
    assert sum(b.numel() for b in blocks) == tensor.numel(), weight.name
    spans = sorted((b.storage_offset(), b.numel()) for b in blocks)
    assert len({start for start, _ in spans}) == len(spans), f"{weight.name}: two blocks begin at one entry"
    for block in blocks:
        out, channels, *kernel = block.shape
        assert fan_in(tuple(block.shape)) == channels * math.prod(kernel)
        assert fan_out(tuple(block.shape)) == out * math.prod(kernel)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # timm's and torch's own deprecations
@pytest.mark.parametrize("name", timm.list_models())
def test_timm(name):
    model = timm.create_model(name, device="meta")
    view = describe(model)
    check_partition(model, list(view.weights), dict(view.skipped))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # deprecations inside transformers
@pytest.mark.skipif(VERSION < (5, 23), reason="the small models are of the types of transformers 5.23")
@pytest.mark.parametrize("model_type", [t for t in MODEL_MAPPING_NAMES if t not in LEFT_OUT])
def test_transformers(model_type):
    model = shrunk(model_type)
    found = survey(model)
    check_partition(model, found.weights, found.skipped)
    for weight in found.weights:  # exactly once: count the visits of every entry
        visits = torch.zeros(weight.shape)
        for block in weight.layout.blocks(visits):
            block.add_(1)
        assert torch.equal(visits, torch.ones(weight.shape)), weight.name


def test_the_catalogues_are_whole():
    assert len(timm.list_models()) >= 1371
    assert len(MODEL_MAPPING_NAMES) - len(LEFT_OUT) >= 600
    assert os.environ["HF_HUB_OFFLINE"] == "1"
