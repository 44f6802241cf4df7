"""The objective is a mean over all predictions: how the data are cut into batches changes no score."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sigprune import describe, prune
from sigprune.base.registry import MemberSpec
from sigprune.base.tensors import Tensors
from sigprune.families.objectives import objectives
from sigprune.pruning.scorer import Scorer
from sigprune.values.mask import Mask
from sigprune.values.view import View
from tests.reference.curvature import grasp_by_hessian
from tests.reference.scores import eval_copy, keep_top, mean_cross_entropy
from tests.support.networks import SmallConv, mlp, seeded

SCORES = ("snip", "snip_it", "force", "grasp")
CUTS = ((11,), (6, 4, 1), (1, 10), (1,) * 11)
CLASSES = 4


def examples(count: int = 11) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return (
        torch.randn(count, 12, generator=draws, dtype=torch.float64) * torch.arange(1, count + 1)[:, None],
        torch.randint(CLASSES, (count,), generator=draws),
    )


def cut(sizes: tuple[int, ...], *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    return list(zip(*(t.split(sizes) for t in tensors), strict=True))


def network() -> View:
    return describe(seeded(mlp((12, 9, 5, CLASSES))).double())


def scored(name: str, view: View, data: list, objective: str | MemberSpec = "labels") -> Tensors:
    draws = torch.Generator().manual_seed(1)
    mask = Mask({n: torch.rand(s, generator=draws) < 0.8 for n, s in view.prunable_shapes().items()})
    return Scorer.of(view, name, objective, 0)(mask, data, "0")


def by_examples(name: str, view: View) -> Tensors:
    """From its definition, one example at a time, in float64."""
    draws = torch.Generator().manual_seed(1)
    keep = {n: torch.rand(s, generator=draws) < 0.8 for n, s in view.prunable_shapes().items()}
    if name == "grasp":
        return grasp_by_hessian(view.module, keep, [examples()], 200.0)
    twin, dense = eval_copy(view.module), view.params()
    named = dict(twin.named_parameters())
    with torch.no_grad():
        for n, flags in keep.items():
            named[n].mul_(flags)
    loss = mean_cross_entropy(twin, [examples()])
    gradients = torch.autograd.grad(loss, [named[n] for n in keep])
    values = dense if name == "force" else named
    size = float(loss.detach()) if name == "snip_it" else 1.0
    return {n: (values[n] * g).detach().abs() / size for n, g in zip(keep, gradients, strict=True)}


@pytest.mark.parametrize("sizes", CUTS, ids=str)
@pytest.mark.parametrize("name", SCORES)
def test_scores_are_those_of_single_examples(name, sizes):
    expected, found = by_examples(name, network()), scored(name, network(), cut(sizes, *examples()))
    for key, values in expected.items():
        torch.testing.assert_close(found[key], values, rtol=1e-9, atol=1e-15)


def test_masks_are_those_of_single_examples():
    """Batches of 64, 3 and 1: the last example would count 64 times as much as one of the first."""
    view, data = network(), examples(68)
    twin = eval_copy(view.module)
    mean_cross_entropy(twin, [data]).backward()
    values = {n: (p * p.grad).detach().abs() for n, p in twin.named_parameters() if n in view.prunable}
    for sizes in ((64, 3, 1), (68,)):
        mask = prune(view, sparsity=0.5, score="snip", batches=cut(sizes, *data))
        assert mask == Mask(keep_top(values, mask.kept))


@pytest.mark.parametrize("sizes", [(7,), (4, 2, 1)], ids=str)
def test_the_last_loss_of_prospr_is_a_mean(sizes):
    """Its steps of training are on the first batches, whatever their sizes; the rest is measured."""
    steps = cut((2, 2, 7), *examples())[:2]
    rest = [t[4:] for t in examples()]
    step = MemberSpec("prospr", {"steps": 2, "lr": 0.01})
    whole, parts = (scored(step, network(), [*steps, *cut(s, *rest)]) for s in ((7,), sizes))
    for key, values in whole.items():
        torch.testing.assert_close(parts[key], values, rtol=1e-9, atol=1e-15)


class Language(nn.Module):
    """Ids to predictions of tokens, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner, self.head = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 9)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        inputs = self.table(input_ids)
        if attention_mask is not None:
            inputs = inputs * attention_mask.unsqueeze(-1)
        return self.head(torch.tanh(self.inner(inputs.cumsum(1))))


def texts() -> dict[str, Tensor]:
    """Six texts of 2 to 7 tokens, padded; two labels in three are left out."""
    draws = torch.Generator().manual_seed(0)
    ids, lengths = torch.randint(9, (6, 7), generator=draws), torch.arange(2, 8)
    mask = (torch.arange(7) < lengths[:, None]).long()
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, 2::3] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


PER_EXAMPLE = [name for name in objectives.names() if name not in {"masked_token", "random_labels"}]
"""The others draw something for each batch, by its number."""


@pytest.mark.parametrize("objective", PER_EXAMPLE)
@pytest.mark.parametrize("name", ["snip_it", "grasp"])
def test_tokens_count_alike_in_all_batches(name, objective):
    view = describe(seeded(Language()).double())
    whole, parts = (
        scored(
            name,
            view,
            [dict(zip(texts(), part, strict=True)) for part in cut(sizes, *texts().values())],
            objective,
        )
        for sizes in ((6,), (1, 3, 2))
    )
    assert any(bool(t.any()) for t in whole.values())
    for key, values in whole.items():
        torch.testing.assert_close(parts[key], values, rtol=1e-9, atol=1e-15)


def test_hidden_tokens_count_alike():
    """What masked_token hides is drawn by the number of the batch; each hidden token counts the same."""
    member, view = objectives.get("masked_token"), describe(seeded(Language()).double())
    step = MemberSpec("masked_token", {"mask_token": 8, "fraction": 0.5})
    parts = [dict(zip(texts(), part, strict=True)) for part in cut((1, 3, 2), *texts().values())]
    found = Scorer.of(view, "snip", step, 0)(Mask.dense(view.prunable_shapes()), parts, "0")
    prepare = Scorer.of(view, "snip", step, 0)._prepare()
    leaves = {n: p.requires_grad_() for n, p in view.params().items()}
    total, count = torch.zeros(()).double(), 0
    for number, part in enumerate(parts):
        batch = prepare(number, view.read(part))
        known = batch.target != -100
        total = total + nn.functional.cross_entropy(
            view.forward(leaves, batch)[known], batch.target[known], reduction="sum"
        )
        count += int(known.sum())
        assert member.predictions(torch.empty(0), batch) == int(known.sum())
    (total / count).backward()
    for key, values in found.items():
        torch.testing.assert_close(values, (leaves[key] * leaves[key].grad).abs().detach())


@pytest.mark.parametrize("name", SCORES)
def test_half_precision_loses_no_small_score(name):
    """Gradients of a confident network underflow in float16, where they are not all zero."""
    module = seeded(SmallConv())
    with torch.no_grad():
        module.head.weight.mul_(1e-4)
        module.conv2.weight.mul_(1e-3)
    module = module.half()
    half, double = (
        describe(copy.deepcopy(module).to(dtype), example=torch.zeros(1, 3, 8, 8, dtype=dtype))
        for dtype in (torch.float16, torch.float64)
    )
    draws = torch.Generator().manual_seed(0)
    data = [(torch.randn(8, 3, 8, 8, generator=draws).half(), torch.arange(8) % 4)]
    masks = [
        prune(view, sparsity=0.5, score=name, schedule="oneshot", batches=data) for view in (half, double)
    ]
    assert masks[0].jaccard(masks[1]) > 0.97
