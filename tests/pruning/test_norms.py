"""What a module divides by its norm keeps an entry of every filter, the budget stays exact, or it is said."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from transformers import Wav2Vec2Config, Wav2Vec2Model

import sigprune
from sigprune.base.errors import BadInput, BadScores
from sigprune.base.registry import MemberSpec
from sigprune.models.opening import describe
from sigprune.propagation.findings import verify
from sigprune.values.mask import Mask
from sigprune.values.view import View
from tests.support.networks import labelled, mlp, seeded


def normalised(**options: int) -> nn.Module:
    """Rows of very different sizes: pooled scores would empty most of the small ones."""
    module = seeded(mlp())
    with torch.no_grad():
        module[2].weight *= torch.logspace(-4, 0, 16)[:, None]
    parametrizations.weight_norm(module[2], **options)
    return module


def of_hooks() -> nn.Module:
    module = seeded(mlp())
    with torch.no_grad():
        module[2].weight *= torch.logspace(-4, 0, 16)[:, None]
    return torch.nn.utils.weight_norm(module[2]) and module


def spectral() -> nn.Module:
    module = seeded(mlp())
    with torch.no_grad():
        module[2].weight *= 1e-6
    parametrizations.spectral_norm(module[2])
    return module


KINDS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "rows": (normalised, "2.parametrizations.weight.original1", 16),
    "columns": (lambda: normalised(dim=1), "2.parametrizations.weight.original1", 16),
    "one norm": (lambda: normalised(dim=None), "2.parametrizations.weight.original1", 1),
    "hooks": (of_hooks, "2.weight_v", 16),
    "spectral": (spectral, "2.parametrizations.weight.original", 1),
}
SCORES = ["magnitude", "snip", "random", "synflow", "force"]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_filter_keeps_an_entry_and_the_budget_stays_exact(kind, score):
    if (kind, score) == ("spectral", "synflow"):
        pytest.skip("the stored singular vectors have both signs: no flow is left to score with")
    build, name, filters = KINDS[kind]
    view = describe(build())
    assert view[name].filters == filters
    mask = sigprune.prune(view, sparsity=0.9, score=score, batches=labelled(view))
    assert mask.kept == round(0.1 * mask.total)
    assert view[name].empty_filters(mask.keep[name]) == 0
    sigprune.apply_(view, mask)
    assert view.forward({}, view.example).isfinite().all()


@pytest.mark.parametrize("allocation", ["uniform", "erk", "igq", MemberSpec("pooled", {"floor": 0.01})])
@pytest.mark.parametrize("pattern", ["unstructured", "per_row"])
def test_whatever_shares_the_budget(pattern, allocation):
    """Here 27 of 528 entries are left, and 16 rows need one; the shares in proportion would give them 13."""
    view = describe(normalised())
    mask = sigprune.prune(view, sparsity=0.95, score="magnitude", allocation=allocation, pattern=pattern)
    name = KINDS["rows"][1]
    assert mask.kept == round(0.05 * mask.total)
    assert view[name].empty_filters(mask.keep[name]) == 0


def test_only_what_is_needed_differs_from_the_ranking():
    """The naive reference: the best entry of each filter, then the best of all others together."""
    view = describe(normalised())
    name = KINDS["rows"][1]
    mask = sigprune.prune(view, sparsity=0.9, score="magnitude")
    scores = {n: view.params()[n].abs().double() for n in view.prunable}
    best = scores[name].argmax(1)
    scores[name][torch.arange(16), best] = math.inf
    everything = torch.cat([s.flatten() for s in scores.values()])
    limit = everything.sort(descending=True).values[mask.kept - 1]
    for n, values in scores.items():
        assert torch.equal(mask.keep[n], values >= limit)


def test_where_no_filter_is_emptied_the_mask_is_that_of_the_scores():
    module = seeded(mlp())
    plain = sigprune.prune(describe(module), sparsity=0.3, score="magnitude")
    parametrizations.weight_norm(module[2])
    under = sigprune.prune(describe(module), sparsity=0.3, score="magnitude")
    assert torch.equal(under.keep[KINDS["rows"][1]], plain.keep["2.weight"])


def test_ties_within_a_filter_are_not_broken_by_position():
    module = normalised()
    with torch.no_grad():
        module[2].parametrizations.weight.original1.fill_(1e-9)
    view = describe(module)
    name = KINDS["rows"][1]
    kept = [
        sigprune.prune(view, sparsity=0.9, score="magnitude", seed=seed).keep[name].nonzero()[:, 1]
        for seed in range(2)
    ]
    assert all(len(columns) == 16 for columns in kept)
    assert not torch.equal(*kept)
    assert len(set(kept[0].tolist())) > 4


def test_a_sparsity_that_leaves_no_entry_for_each_is_refused_before_scoring():
    view = describe(normalised())
    with pytest.raises(BadInput, match=r"a budget of 5 entries is less than the 16 filters of 1 weights"):
        sigprune.prune(view, sparsity=0.99, score="snip")  # that there are no data is not reached


@pytest.mark.parametrize("pattern", ["channel", MemberSpec("block", {"rows": 4, "columns": 16})])
def test_patterns_of_whole_units_refuse_to_empty_a_filter(pattern):
    view = describe(normalised(), exclude=("head",))
    with pytest.raises(BadInput, match=r"leaves filters of 2\.parametrizations.*by its norm.*exclude"):
        sigprune.prune(view, sparsity=0.6, score="magnitude", pattern=pattern)
    rest = view.select(exclude=("head", KINDS["rows"][1]))
    sigprune.prune(rest, sparsity=0.5, score="magnitude", pattern=pattern)


def test_channels_may_go_where_the_norm_spans_them():
    view = describe(normalised(dim=1), exclude=("head",))
    mask = sigprune.prune(view, sparsity=0.5, score="magnitude", pattern="channel")
    assert 0.4 < mask.sparsity < 0.6


def test_two_of_four_keeps_an_entry_of_each_row():
    view = describe(normalised(), include=(KINDS["rows"][1],))
    mask = sigprune.prune(
        view, sparsity=0.5, score="magnitude", allocation="uniform", pattern="n_m", schedule="oneshot"
    )
    assert mask.kept == 128


@pytest.fixture
def emptied() -> tuple[View, Mask]:
    view = describe(normalised())
    keep = Mask.dense(view.prunable_shapes()).keep
    keep[KINDS["rows"][1]][3] = False
    return view, Mask(dict(keep))


@pytest.mark.parametrize("verb", ["apply_", "hold", "transfer"])
def test_a_mask_of_ones_own_that_empties_a_filter_is_refused(emptied, verb):
    view, mask = emptied
    optimizer = torch.optim.SGD(view.module.parameters(), lr=0.1)
    verbs = {
        "apply_": lambda: sigprune.apply_(view, mask),
        "hold": lambda: sigprune.hold(view, mask, optimizer).__enter__(),
        "transfer": lambda: sigprune.transfer(view, mask),
    }
    with pytest.raises(BadInput, match=r"the mask leaves 1 of 16 filters of 2.*divides each by its norm"):
        verbs[verb]()


@pytest.mark.parametrize("joint", [False, True])
def test_a_row_of_zeros_is_blamed_on_itself(joint):
    """Not on a recurrence, nor on damping or gain."""
    module = normalised()
    with torch.no_grad():
        module[2].parametrizations.weight.original1[3] = 0
    view, message = describe(module), r"2\.parametrizations.*1 of 16 filters are all zero"
    with pytest.raises(BadInput, match=message):
        sigprune.jacobian(view, torch.ones(2, 12), joint=joint)
    with pytest.raises(BadInput, match=message):
        verify(view, torch.ones(2, 12))
    with pytest.raises(BadScores, match=message):
        sigprune.prune(view, sparsity=0.5, score="snip", batches=labelled(view))


def test_an_overflow_is_not_called_a_recurrence():
    class Overflowing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) / (x.sum(1, keepdim=True) * 0)

    operator = sigprune.jacobian(describe(seeded(Overflowing())), torch.ones(3, 4))
    assert operator.examples == 3


def test_the_positional_convolution_of_wav2vec2():
    """Its norms are those of the places of the kernel, over outputs and inputs."""
    config = Wav2Vec2Config(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8,), conv_kernel=(10,), conv_stride=(5,), num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2, num_feat_extract_layers=1,
    )  # fmt: skip
    view = describe(Wav2Vec2Model(config))
    (weight,) = [w for w in view.weights if w.divided is not None]
    assert (weight.divided, weight.filters) == ((0, 1), 8)
    with torch.no_grad():
        view.params()[weight.name].mul_(1e-6)
    mask = sigprune.prune(view, sparsity=0.97, score="magnitude")
    assert mask.counts()[weight.name][0] == 8
    assert mask.kept == round(0.03 * mask.total)
    sigprune.apply_(view, mask)
    assert view.forward({}, view.example).isfinite().all()
