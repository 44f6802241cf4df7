"""Objectives on real language models (tiny configurations of transformers): masks, rounds, padding."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from torch import Tensor

from sigprune import describe, open_model, prune, reinit_
from sigprune.base.errors import DataError
from sigprune.base.registry import MemberSpec
from sigprune.base.rng import generator
from sigprune.families.objectives import objectives, preparation
from sigprune.families.scores import scores
from sigprune.values.batch import Batch
from sigprune.values.mask import Mask
from sigprune.values.problem import Problem, Setting
from sigprune.values.view import View
from tests.support.networks import SmallConv, seeded

VOCABULARY, MASK, PAD = 50, 1, 0
CAUSAL = {
    "task": "causal-lm", "n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": VOCABULARY, "n_positions": 16,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
MASKED = {
    "task": "masked-lm", "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2,
    "intermediate_size": 32, "vocab_size": VOCABULARY, "max_position_embeddings": 16,
}  # fmt: skip
HIDING = MemberSpec("masked_token", {"mask_token": MASK})
STEPS = [*(n for n in objectives.names() if n not in {"labels", "masked_token"}), HIDING]


@cache
def model(kind: str) -> View:
    view = describe(open_model(f"transformers:{kind}", args=CAUSAL if kind == "gpt2" else MASKED))
    reinit_(view, "orthogonal", seed=0)
    return view


def texts(count: int = 2, examples: int = 4, length: int = 10) -> list[dict[str, Tensor]]:
    draw = generator(0, "test", "texts")
    batches = []
    for _ in range(count):
        ids = torch.randint(2, VOCABULARY, (examples, length), generator=draw)
        mask = torch.ones_like(ids)
        mask[0, -3:] = 0
        batches.append({"input_ids": ids.masked_fill(mask == 0, PAD), "attention_mask": mask})
    return batches


def bound(view: View, step: str | MemberSpec, data: list) -> Problem:
    """A problem as the verb makes it, to look at single scores."""
    choice = objectives.choose(step)
    own = preparation(choice.member)

    def prepare(number: int, batch: Batch) -> Batch:
        if own is None:
            return batch
        how = Setting(generator(0, "objective", str(number)), lambda b: view.forward({}, b).detach())
        return own(batch, how, **choice.options)

    aim = partial(choice.member.objective, **choice.options)
    mask = Mask.dense(view.prunable_shapes())
    return Problem(view, mask, generator(0, "test", "score"), aim, data, prepare)


@pytest.mark.parametrize("step", STEPS, ids=lambda s: s if isinstance(s, str) else s.name)
@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_snip_makes_masks_of_language_models(kind, step):
    """Exact, repeatable, no weight without a score, and not that of another objective."""
    view = model(kind)
    masks = [
        prune(view, sparsity=0.5, score="snip", objective=step, batches=texts(), seed=s) for s in (0, 0, 1)
    ]
    assert masks[0].kept == round(masks[0].total * 0.5)
    assert masks[0] == masks[1]
    uniform = prune(view, sparsity=0.5, score="snip", objective="uniform", batches=texts())
    assert (masks[0] == uniform) == (step == "uniform")
    random = isinstance(step, MemberSpec) or step == "random_labels"
    assert (masks[0] == masks[2]) != random


@pytest.mark.parametrize("step", ["next_token", "uniform", "prediction_softmax", "self_distillation"])
def test_what_stands_at_padding_changes_no_score(step):
    view, data = model("gpt2"), texts()
    expected = scores.get("snip").score(bound(view, step, data))
    for item in data:
        item["input_ids"] = item["input_ids"].masked_fill(item["attention_mask"] == 0, 7)
    ranked = scores.get("snip").score(bound(view, step, data))
    for name in expected:
        torch.testing.assert_close(ranked[name], expected[name], rtol=1e-4, atol=1e-7)


def test_next_token_is_the_loss_of_the_library():
    view = model("gpt2")
    (item,) = texts(1)
    item["attention_mask"] = torch.ones_like(item["input_ids"])
    batch = view.read(item)
    mine = objectives.get("next_token").objective(view.forward({}, batch), batch)
    theirs = view.module.eval()(**item, labels=item["input_ids"]).loss
    torch.testing.assert_close(mine, theirs)


def test_masked_token_is_the_loss_of_the_library():
    view = model("bert")
    problem = bound(view, HIDING, texts(1))
    (batch,) = problem.batches()
    mine = problem.objective(view.forward({}, batch), batch)
    theirs = view.module.eval()(**batch.inputs, labels=batch.target).loss
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("step", ["random_labels", HIDING], ids=["random_labels", "masked_token"])
def test_every_round_sees_the_same_evidence(step, monkeypatch):
    view = model("bert")
    seen = []
    original = scores.get("snip").score

    def spy(problem: Problem) -> dict[str, Tensor]:
        seen.append([batch.target for batch in problem.batches()])
        return original(problem)

    monkeypatch.setattr(scores.get("snip"), "score", spy)
    schedule = MemberSpec("exponential", {"rounds": 2})
    prune(view, sparsity=0.5, score="snip", schedule=schedule, objective=step, batches=texts())
    first, second = seen
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1]), "each batch has a stream of its own"


def test_the_teacher_stays_dense_in_later_rounds(monkeypatch):
    view = describe(seeded(SmallConv()), example=torch.zeros(1, 3, 8, 8))
    data = [torch.randn(5, 3, 8, 8, generator=generator(0, "test", "images"))]
    dense = view.forward({}, view.read(data[0])).detach()
    targets = []
    original = scores.get("snip").score

    def spy(problem: Problem) -> dict[str, Tensor]:
        targets.extend(batch.target for batch in problem.batches())
        return original(problem)

    monkeypatch.setattr(scores.get("snip"), "score", spy)
    schedule = MemberSpec("exponential", {"rounds": 3})
    prune(view, sparsity=0.8, score="snip", schedule=schedule, objective="self_distillation", batches=data)
    assert len(targets) == 3
    assert all(torch.equal(target, dense) and not target.requires_grad for target in targets)


def test_an_image_classifier_has_no_next_token():
    view = describe(seeded(SmallConv()), example=torch.zeros(1, 3, 8, 8))
    with pytest.raises(DataError, match="'next_token' needs token ids"):
        prune(view, sparsity=0.5, score="snip", objective="next_token", batches=[torch.zeros(2, 3, 8, 8)])


def test_scores_without_an_objective_see_the_batches_as_they_are(monkeypatch):
    """A masked-token objective must not hide tokens from a score that reads inputs only."""
    view, seen = model("bert"), []
    member = scores.get("snip")

    def look(problem: Problem) -> dict[str, Tensor]:
        seen.extend(problem.batches())
        return {name: torch.ones(keep.shape) for name, keep in problem.mask.keep.items()}

    monkeypatch.setattr(member, "score", look)
    monkeypatch.setattr(member, "NEEDS", "inputs")
    prune(view, sparsity=0.5, score="snip", objective=HIDING, batches=texts())
    assert all(torch.equal(b.inputs["input_ids"], t["input_ids"]) for b, t in zip(seen, texts(), strict=True))
    assert all(batch.target is None for batch in seen)
