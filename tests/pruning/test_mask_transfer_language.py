"""Masks of language models for another vocabulary, with the objectives that such models have."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sigprune import describe, open_model, prune, reinit_, transfer
from sigprune.base.registry import MemberSpec
from sigprune.base.rng import generator
from sigprune.values.view import View

ARGUMENTS = {
    "gpt2": {
        "task": "causal-lm", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 16, "bos_token_id": 0,
        "eos_token_id": 0, "tie_word_embeddings": False,
    },
    "bert": {
        "task": "masked-lm", "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 16, "tie_word_embeddings": False,
    },
}  # fmt: skip
CASES = [("gpt2", MemberSpec("next_token", {})), ("bert", MemberSpec("masked_token", {"mask_token": 1}))]


def network(kind: str, vocabulary: int) -> View:
    view = describe(open_model(f"transformers:{kind}", args={**ARGUMENTS[kind], "vocab_size": vocabulary}))
    reinit_(view, "orthogonal", seed=0)
    return view


def texts(vocabulary: int, name: str) -> list[dict[str, Tensor]]:
    draw = generator(0, "test", name)
    return [{"input_ids": torch.randint(2, vocabulary, (4, 10), generator=draw)} for _ in range(2)]


@pytest.mark.parametrize(("kind", "objective"), CASES, ids=[kind for kind, _ in CASES])
def test_a_mask_of_one_text_serves_another_vocabulary(kind, objective):
    view, other = network(kind, 40), network(kind, 60)
    mask = prune(view, sparsity=0.6, score="snip", objective=objective, batches=texts(40, "found"))
    (head,) = [w.name for w in other.weights if w.role == "head"]
    before = {name: p.clone() for name, p in other.params().items()}
    moved, again = (
        transfer(other, mask, objective=objective, batches=texts(60, "other"), seed=1) for _ in range(2)
    )
    assert moved == again
    assert all(torch.equal(p, before[name]) for name, p in other.params().items())
    assert all(torch.equal(moved.keep[name], keep) for name, keep in mask.keep.items() if name != head)
    kept, total = mask.counts()[head]
    assert moved.counts()[head] == (round(kept / total * 60 * 16), 60 * 16)
    rows = moved.keep[head].sum(1)
    assert int(rows.max()) > int(rows.min()), "chosen by the scores of these texts"


@pytest.mark.parametrize(("kind", "objective"), CASES, ids=[kind for kind, _ in CASES])
def test_the_same_vocabulary_takes_it_as_it_is(kind, objective):
    """Also where the mask was found with another objective."""
    mask = prune(
        network(kind, 40), sparsity=0.6, score="snip", objective="uniform", batches=texts(40, "found")
    )
    assert transfer(network(kind, 40), mask, objective=objective, batches=texts(40, "other")) == mask
