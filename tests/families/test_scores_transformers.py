"""Models of transformers that keep a state, choose experts or hold places for images, under every score."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from sigprune import describe, jacobian, profile
from sigprune.base.registry import MemberSpec
from sigprune.base.tensors import digest
from sigprune.families.scores import scores
from sigprune.pruning.scorer import Scorer
from sigprune.values.mask import Mask
from tests.support.networks import seeded
from tests.support.shrinking import shrunk
from tests.support.test_shrinking import VERSION

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own deprecations

SIZES = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 0}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 16}


def rwkv() -> nn.Module:
    config = RwkvConfig(**SIZES, attention_hidden_size=16, intermediate_size=32, context_length=16)
    return seeded(RwkvForCausalLM(config))


def mixtral() -> nn.Module:
    return seeded(MixtralForCausalLM(MixtralConfig(**SIZES, **HEADS, num_local_experts=4)))


def olmoe() -> nn.Module:
    config = OlmoeConfig(**SIZES, **HEADS, num_experts=4, num_experts_per_tok=2, pad_token_id=0)
    return seeded(OlmoeForCausalLM(config))


STATEFUL = {"rwkv": rwkv, "mixtral": mixtral, "olmoe": olmoe}
TEXTS = {"input_ids": torch.arange(24).reshape(3, 8)}


@pytest.mark.parametrize("make", STATEFUL.values(), ids=STATEFUL)
def test_caches_and_grouped_experts_stop_no_score(make: Callable[[], nn.Module]):
    module = make()
    view, before, config = describe(module), digest(module.state_dict()), module.config.to_dict()
    for name in scores.names():
        data = None if scores.get(name).NEEDS == "nothing" else [TEXTS]
        found = Scorer.of(view, name, "next_token", 0)(Mask.dense(view.prunable_shapes()), data, "0")
        assert any(bool(values.any()) for values in found.values()), name
    assert digest(module.state_dict()) == before
    assert module.config.to_dict() == config
    assert module.config.use_cache


@pytest.mark.parametrize("make", STATEFUL.values(), ids=STATEFUL)
def test_caches_and_grouped_experts_stop_no_jacobian(make: Callable[[], nn.Module]):
    """Forward and backward products are adjoint, as near as norms that compute in float32 allow."""
    view = describe(make())
    operator = jacobian(view, TEXTS, dtype=torch.float64)
    draws = torch.Generator().manual_seed(0)
    v = torch.randn(2, 3, operator.shape[1], generator=draws, dtype=torch.float64)
    u = torch.randn(2, 3, operator.shape[0], generator=draws, dtype=torch.float64)
    ahead, back = (operator.matmat(v) * u).sum(), (v * operator.rmatmat(u)).sum()
    assert abs(float(ahead)) > 1e-3
    torch.testing.assert_close(ahead, back, rtol=1e-4, atol=1e-4)
    assert "forward" not in profile(view, TEXTS, probes=1).notes


NEWEST = pytest.mark.skipif(VERSION < (5, 23), reason="the small models are of transformers 5.23")


@NEWEST
@pytest.mark.parametrize("model_type", ["llava", "gemma3", "qwen3_vl"])
def test_places_of_images_are_found_whatever_the_text_is_replaced_by(model_type):
    """synflow puts ones in the place of embeddings, ntk_sap noise; the rows of images reach the output."""
    view = describe(seeded(shrunk(model_type)))
    assert bool(view.places(view.example).any())
    for name, step in (("synflow", "synflow"), ("ntk_sap", MemberSpec("ntk_sap", {"examples": 2}))):
        mask = Mask.dense(view.prunable_shapes())
        found = Scorer.of(view, step, "labels", 0)(mask, None, "0")
        seen = [n for n, values in found.items() if "vis" in n and bool(values.any())]
        assert len(seen) > 3, name
    operator = jacobian(view, view.example, dtype=torch.float64)
    assert operator.dtype is torch.float64


@NEWEST
def test_a_normalised_embedding_carries_the_flow():
    """ModernBERT normalises an all-ones embedding before anything else, and its output last."""
    view = describe(shrunk("modernbert"))
    found = Scorer.of(view, "synflow", "labels", 0)(Mask.dense(view.prunable_shapes()), None, "0")
    assert all(float(values.max()) > 1e-6 for values in found.values())
