"""The contract of the objectives, over every member, and each against a naive float64 reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sigprune.base.errors import BadInput, DataError, NeedsData
from sigprune.base.registry import MemberSpec
from sigprune.base.rng import generator
from sigprune.families.objectives import objectives, preparation
from sigprune.values.batch import Batch
from sigprune.values.problem import Setting
from tests.reference import objectives as reference

REQUIRED = {"masked_token": {"mask_token": 1}}
"""Options without a default."""

OF_INPUTS = ["prediction_raw", "prediction_softmax", "random_labels", "self_distillation", "uniform"]
"""Members that work for classes and for tokens."""


def draws(*size: int, name: str = "logits") -> Tensor:
    return torch.randn(*size, generator=generator(0, "test", name), dtype=torch.float64)


def tokens(examples: int = 6, length: int = 5, vocabulary: int = 7) -> tuple[Tensor, Batch]:
    """Logits and token ids; the first example has padding on the left, the last on the right."""
    ids = torch.randint(2, vocabulary, (examples, length), generator=generator(0, "test", "ids"))
    mask = torch.ones_like(ids)
    mask[0, :2] = mask[-1, -2:] = 0
    return draws(examples, length, vocabulary), Batch({"input_ids": ids, "attention_mask": mask})


def classes() -> tuple[Tensor, Batch]:
    return draws(6, 4), Batch({"x": torch.zeros(6, 1)}, torch.tensor([0, 1, 2, 3, 0, 1]))


def setting(seed: int = 0, dense: Tensor | None = None) -> Setting:
    return Setting(
        generator(seed, "test", "prepare"),
        lambda _batch: draws(6, 4, name="dense") if dense is None else dense,
    )


def prepared(name: str, batch: Batch, how: Setting, **options: object) -> Batch:
    own = preparation(objectives.get(name))
    return batch if own is None else own(batch, how, **{**REQUIRED.get(name, {}), **options})


def value(name: str, output: Tensor, batch: Batch, how: Setting | None = None, **options: object) -> Tensor:
    choice = objectives.choose(MemberSpec(name, {**REQUIRED.get(name, {}), **options}))
    ready = prepared(name, batch, how or setting(), **options)
    return choice.member.objective(output, ready, **choice.options)


def twice(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else torch.cat([tensor, tensor])


@pytest.mark.parametrize("name", objectives.names())
def test_contract(name):
    member = objectives.get(name)
    output, batch = tokens() if member.NEEDS == "tokens" else classes()
    if member.NEEDS != "labels":
        batch = replace(batch, labels=None)
    batch = prepared(name, batch, setting())
    options = objectives.choose(MemberSpec(name, REQUIRED.get(name, {}))).options
    output.requires_grad_()
    result = member.objective(output, batch, **options)
    assert result.shape == ()
    (gradient,) = torch.autograd.grad(result, output)
    assert torch.isfinite(gradient).all()
    assert gradient.any()
    double = Batch({k: twice(v) for k, v in batch.inputs.items()}, twice(batch.labels), twice(batch.target))
    again = member.objective(twice(output), double, **options)
    torch.testing.assert_close(again, result)  # a mean over the batch, not a sum
    assert member.PAPER


@pytest.mark.parametrize("name", objectives.names())
def test_preparation_is_seeded_and_leaves_the_callers_batch(name):
    _, batch = tokens() if objectives.get(name).NEEDS == "tokens" else classes()
    before = {k: v.clone() for k, v in batch.inputs.items()}
    first, same, other = (prepared(name, batch, setting(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(batch.inputs[k], before[k]) for k in before)
    assert batch.target is None
    if first.target is None:
        return
    assert len(first.target) == len(batch)
    assert torch.equal(first.target, same.target)
    assert torch.equal(first.target, other.target) == (name == "self_distillation")


@pytest.mark.parametrize("name", OF_INPUTS)
def test_values_for_classes(name):
    output, batch = classes()
    rows, dense = output.tolist(), draws(6, 4, name="dense").tolist()
    expected = {
        "uniform": lambda: reference.uniform(rows),
        "prediction_raw": lambda: reference.prediction_raw(rows),
        "prediction_softmax": lambda: reference.prediction_softmax(rows),
        "random_labels": lambda: reference.labelled(rows, random_labels(6, (), 4).tolist()),
        "self_distillation": lambda: reference.self_distillation(rows, dense, 0.5),
    }
    assert float(value(name, output, batch)) == pytest.approx(expected[name](), rel=1e-12)


def random_labels(examples: int, size: tuple[int, ...], classes: int) -> Tensor:
    """What the docstring promises: a seed for each example, then a stream for each."""
    seeds = torch.randint(2**62, (examples,), generator=setting().generator).tolist()
    return torch.stack([torch.randint(classes, size, generator=generator(s, "random_labels")) for s in seeds])


@pytest.mark.parametrize("name", OF_INPUTS)
def test_padding_does_not_count(name):
    """Whatever stands at padding, NaN included, changes neither the value nor the other gradients."""
    output, batch = tokens()
    dense = draws(6, 5, 7, name="dense")
    attended = batch.inputs["attention_mask"].bool()
    rows = output[attended].tolist()
    expected = {
        "uniform": lambda: reference.uniform(rows),
        "prediction_raw": lambda: reference.prediction_raw(rows),
        "prediction_softmax": lambda: reference.prediction_softmax(rows),
        "random_labels": lambda: reference.labelled(rows, random_labels(6, (5,), 7)[attended].tolist()),
        "self_distillation": lambda: reference.self_distillation(rows, dense[attended].tolist(), 0.5),
    }
    spoilt = output.masked_fill(~attended[:, :, None], torch.nan).requires_grad_()
    result = value(name, spoilt, batch, setting(dense=dense))
    assert float(result.detach()) == pytest.approx(expected[name](), rel=1e-12)
    (gradient,) = torch.autograd.grad(result, spoilt)
    assert not gradient[~attended].any()
    assert torch.isfinite(gradient).all()


def test_random_labels_are_spread_over_the_classes_and_do_not_look_at_the_data():
    batch = Batch({"x": torch.zeros(4000, 1)})
    seeds = prepared("random_labels", batch, setting()).target
    assert torch.equal(seeds, prepared("random_labels", Batch({"x": torch.ones(4000, 1)}), setting()).target)
    output = torch.zeros(4000, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(value("random_labels", output, batch), output)
    counts = (gradient < 0).sum(0)
    assert int(counts.sum()) == 4000
    assert (counts - 800).abs().max() < 5 * (4000 * 0.2 * 0.8) ** 0.5


def test_self_distillation_at_temperature_one_would_score_nothing():
    output, batch = classes()
    with pytest.raises(BadInput, match="temperature other than 1"):
        value("self_distillation", output, batch, temperature=1.0)
    output.requires_grad_()
    same = value("self_distillation", output, batch, setting(dense=output.detach()), temperature=0.5)
    (gradient,) = torch.autograd.grad(same, output)
    expected = torch.softmax(output, -1) - torch.softmax(2 * output, -1)
    torch.testing.assert_close(gradient, expected / len(output))


def test_next_token_is_the_cross_entropy_with_the_token_after():
    output, batch = tokens()
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    expected = reference.next_token(output, ids, mask)
    assert float(value("next_token", output, batch)) == pytest.approx(expected, rel=1e-12)
    whole = reference.next_token(output, ids, torch.ones_like(mask))
    assert float(value("next_token", output, Batch({"x": ids}))) == pytest.approx(whole, rel=1e-12)


def test_next_token_reads_the_decoder_where_there_is_one():
    output, batch = tokens()
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    both = {
        "input_ids": torch.zeros(6, 9, dtype=torch.int64), "attention_mask": torch.ones(6, 9),
        "decoder_input_ids": ids, "decoder_attention_mask": mask,
    }  # fmt: skip
    assert torch.equal(value("next_token", output, Batch(both)), value("next_token", output, batch))


@pytest.mark.parametrize("fraction", [0.15, 0.5, 1.0])
def test_masked_token_hides_the_fraction_and_never_padding(fraction):
    output, batch = tokens()
    ids, attended = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
    special = [int(ids[1, 0])]
    ready = prepared("masked_token", batch, setting(), fraction=fraction, special=special)
    hidden = ready.inputs["input_ids"] == 1
    candidates = attended & (ids != special[0])
    assert int(hidden.sum()) == round(fraction * int(candidates.sum()))
    assert not (hidden & ~candidates).any()
    assert torch.equal(ready.inputs["input_ids"][~hidden], ids[~hidden])
    expected = reference.labelled(output[hidden].tolist(), ids[hidden].tolist())
    result = value("masked_token", output, batch, fraction=fraction, special=special)
    assert float(result) == pytest.approx(expected, rel=1e-12)


def test_masked_token_hides_at_least_one_of_a_short_text():
    ready = prepared("masked_token", Batch({"input_ids": torch.tensor([[2, 3]])}), setting())
    assert int((ready.inputs["input_ids"] == 1).sum()) == 1


def test_labels_of_tokens():
    output, batch = tokens()
    labels = batch.inputs["input_ids"].masked_fill(batch.inputs["attention_mask"] == 0, -100)
    expected = reference.labelled(output.flatten(0, 1).tolist(), labels.reshape(-1).tolist())
    assert float(value("labels", output, replace(batch, labels=labels))) == pytest.approx(expected, rel=1e-12)


def test_labels_without_labels():
    output, batch = classes()
    with pytest.raises(NeedsData, match="'uniform' does without"):
        value("labels", output, replace(batch, labels=None))


def spoilt(**changes: object) -> tuple[Tensor, Batch]:
    output, batch = tokens()
    inputs = {k: v for k, v in {**batch.inputs, **changes}.items() if v is not None}
    return output, Batch(inputs)


def labelled(*labels: int) -> Batch:
    return Batch({}, torch.tensor(labels))


BAD = {
    "one axis": ("uniform", draws(6), Batch({}), r"expects an output .* got \(6,\)"),
    "image of classes": ("prediction_raw", draws(2, 3, 4, 4), Batch({}), r"got \(2, 3, 4, 4\)"),
    "mask of other length": (
        "uniform", *spoilt(attention_mask=torch.ones(6, 4)), r"mask has shape \(6, 4\).* cannot be told",
    ),
    "all padding": ("uniform", *spoilt(attention_mask=torch.zeros(6, 5)), "all tokens are padding"),
    "label too large": ("labels", draws(2, 3), labelled(0, 3), "labels from 0 to 2 .* got 3"),
    "label negative": ("labels", draws(2, 3), labelled(-1, 2), "labels from 0 to 2 .* got -1"),
    "labels all ignored": ("labels", draws(2, 3), labelled(-100, -100), "every label is -100"),
    "labels of examples for tokens": (
        "labels", draws(2, 4, 3), labelled(0, 1), r"got \(2, 4, 3\) and \(2,\)",
    ),
    "no ids": ("next_token", draws(6, 5, 7), Batch({"x": draws(6, 5, 3)}), "needs token ids"),
    "float ids": ("next_token", *spoilt(input_ids=draws(6, 5)), "'input_ids' to be integers .*float64"),
    "no language head": ("next_token", draws(6, 7), tokens()[1], "expects an output .* task causal-lm"),
    "one token": (
        "next_token", draws(6, 1, 7), Batch({"input_ids": torch.ones(6, 1, dtype=torch.int64)}), "two tokens",
    ),
    "id outside the vocabulary": (
        "next_token", *spoilt(input_ids=torch.full((6, 5), 7)), "labels from 0 to 6 .* got 7",
    ),
    "masked without ids": ("masked_token", draws(6, 4), Batch({"x": draws(6, 3)}), "needs token ids"),
    "masked head": ("masked_token", draws(6, 7), tokens()[1], "expects an output .* task masked-lm"),
    "nothing to mask": (
        "masked_token", *spoilt(input_ids=torch.ones(6, 5, dtype=torch.int64)), "none can be hidden",
    ),
    "masked, mask of other length": (
        "masked_token", *spoilt(attention_mask=torch.ones(6, 4)), r"mask has shape \(6, 4\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case):
    name, output, batch, message = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        value(name, output, batch)
    assert "\n" not in str(caught.value)
    assert f"'{name}'" in str(caught.value)


def test_masked_token_fraction_out_of_range():
    with pytest.raises(BadInput, match="0 < fraction <= 1, got 0"):
        value("masked_token", *tokens(), fraction=0.0)


@pytest.mark.parametrize("name", [n for n in objectives.names() if preparation(objectives.get(n))])
def test_a_batch_that_was_not_prepared_is_refused(name):
    output, batch = tokens() if objectives.get(name).NEEDS == "tokens" else classes()
    choice = objectives.choose(MemberSpec(name, REQUIRED.get(name, {})))
    with pytest.raises(DataError, match=r"without a target: take batches from Problem.batches\(\)"):
        choice.member.objective(output, batch, **choice.options)
