"""Every score x allocation x pattern x schedule gives a mask that is right, or is refused with a reason."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch
from torch import Tensor, nn

from sigprune.base.errors import BadInput, RecipeError
from sigprune.base.registry import MemberSpec
from sigprune.checkpoint.save import save
from sigprune.families.allocations import allocations
from sigprune.families.patterns import patterns
from sigprune.families.schedules import schedules
from sigprune.models.opening import describe
from sigprune.pruning.choose import apply_, prune
from sigprune.pruning.selector import Selector, sites
from sigprune.recipe.recipe import parse_recipe
from sigprune.values.layout import Layout
from sigprune.values.mask import Mask
from sigprune.values.view import View
from tests.support.grids import thinned
from tests.support.networks import labelled, seeded
from tests.support.rankings import matrices

pytestmark = pytest.mark.filterwarnings(
    "ignore::sigprune.pruning.choose.DeadWeights"  # queries and keys of a single token have no gradient
)

SCORES = ["random", "magnitude", "snip", "synflow"]
SPARSITY = 0.5
"""What 2:4 has on this network, whose inputs are all multiples of four."""

OPTIONS = {"block": {"rows": 8, "columns": 4}, "channel": {"rows": 2}}


class Attending(nn.Module):
    """A stem, a grouped convolution, attention over the places (fused projections), a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, stride=2, groups=2)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.stem(x)))).flatten(2).transpose(1, 2)
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


def network() -> View:
    view = describe(seeded(Attending()), example=torch.zeros(1, 4, 6, 6))
    return view.select(exclude=("head",))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """A checkpoint of the same network with uneven layers."""
    view = network()
    mask = prune(view, sparsity=SPARSITY, score="magnitude", allocation="erk")
    apply_(view, mask)
    folder = tmp_path_factory.mktemp("composing") / "erk"
    save(folder, view, mask)
    return str(folder)


def step(family, name: str, checkpoint: str) -> MemberSpec:
    """A member with what it needs, and few rounds."""
    options = {"checkpoint": checkpoint} if name == "from_mask" else dict(OPTIONS.get(name, {}))
    if "rounds" in family.read(name).options:
        options = {"rounds": 3}
    return MemberSpec(name, options)


def refusal(pattern: str, allocation: str, schedule: str) -> str | None:
    """The reviewed table: what makes no sense, and what is said of it."""
    if pattern == "n_m" and allocation != "uniform":
        return f"the pattern 'n_m' fixes every density, and '{allocation}' would choose others"
    if pattern == "n_m" and schedule != "oneshot":
        return f"the pattern 'n_m' fixes every density, so that it has no use for the rounds of '{schedule}'"
    return None


def unit(pattern: str, shape: torch.Size) -> tuple[int, int]:
    if pattern == "block":
        return 8, 4
    return (2, shape[1]) if pattern == "channel" else (1, 1)


def check_invariant(pattern: str, view: View, keep: dict[str, Tensor]) -> int:
    """The pattern holds on every block; returns the entries of its largest unit."""
    largest = 1
    for name, site in sites(view).items():
        blocks = matrices(site, keep[name])
        if pattern == "per_row":
            rows = torch.cat([block.sum(1) for block in blocks])
            assert int(rows.max() - rows.min()) <= 1
        for block in blocks:
            if pattern == "n_m":
                assert bool((block.reshape(-1, 4).sum(1) == 2).all())
            height, width = unit(pattern, block.shape)
            largest = max(largest, height * width)
            for tile in itertools.chain.from_iterable(r.split(width, 1) for r in block.split(height, 0)):
                assert bool(tile.all()) or not bool(tile.any())
    return largest


@pytest.mark.parametrize(("allocation", "pattern"), thinned(allocations.names(), patterns.names(), about=3))
def test_the_whole_grid(allocation, pattern, checkpoint):
    view = network()
    data = labelled(view, examples=8, batches=1)
    chosen = {
        "allocation": step(allocations, allocation, checkpoint),
        "pattern": step(patterns, pattern, checkpoint),
    }
    for score, schedule in itertools.product(SCORES, schedules.names()):
        how = step(schedules, schedule, checkpoint)
        steps = {**chosen, "score": score, "schedule": how}
        reason = refusal(pattern, allocation, schedule)
        written = {k: v if isinstance(v, str) else {"name": v.name, **v.options} for k, v in steps.items()}
        recipe = {"model": {"ref": "timm:test_resnet"}, "prune": {"sparsity": SPARSITY, **written}}
        if reason is not None:
            with pytest.raises(BadInput, match=re.escape(reason)) as refused:
                prune(view, sparsity=SPARSITY, batches=data, **steps)
            with pytest.raises(RecipeError, match=r"^prune: ") as unread:
                parse_recipe(recipe)
            assert str(unread.value) == f"prune: {refused.value}", "the same words"
            continue
        parse_recipe(recipe)
        mask = prune(view, sparsity=SPARSITY, batches=data, **steps)
        largest = check_invariant(pattern, view, dict(mask.keep))
        assert mask.total // 2 - largest < mask.kept <= mask.total // 2
        assert mask == prune(view, sparsity=SPARSITY, batches=data, **steps)


@pytest.mark.parametrize("pattern", ["n_m", "per_row", "block", "channel"])
def test_shipped_patterns_are_chosen_by_a_recipe(pattern):
    """Nothing is lost between recipe and verb: options come back in the resolved copy."""
    sections = {"allocation": "uniform", "pattern": {"name": pattern}}
    recipe = parse_recipe({"model": {"ref": "timm:test_resnet"}, "prune": sections})
    assert recipe.prune.pattern.name == pattern
    assert set(recipe.prune.pattern.options) == set(patterns.read(pattern).options)


def test_a_floor_means_nothing_to_n_m():
    view = network()
    floored = MemberSpec("uniform", {"floor": 0.1})
    with pytest.raises(BadInput, match="the pattern 'n_m' fixes every density: leave out the floor"):
        prune(view, sparsity=0.5, score="random", pattern="n_m", allocation=floored)


def test_every_layer_keeps_its_floor_through_all_rounds():
    view = network()
    rounds = MemberSpec("exponential", {"rounds": 6})
    free = prune(view, sparsity=0.97, score="synflow", schedule=rounds)
    held = prune(
        view,
        sparsity=0.97,
        score="synflow",
        schedule=rounds,
        allocation=MemberSpec("pooled", {"floor": 0.02}),
    )
    assert held.kept == free.kept == round(0.03 * held.total)
    assert all(kept >= math.ceil(0.02 * total) for kept, total in held.counts().values())
    assert min(kept / total for kept, total in free.counts().values()) < 0.02


def test_the_stem_of_uniform_plus_is_the_first_convolution_of_the_network():
    found = sites(network())
    assert [name for name, site in found.items() if site.stem] == ["stem.weight"]
    without = sites(describe(Attending(), example=torch.zeros(1, 4, 6, 6)).select(exclude=("stem*", "head")))
    assert not any(site.stem for site in without.values()), "another one does not take its place"


def test_biases_are_blocks_of_their_own():
    view = describe(seeded(Attending()), example=torch.zeros(1, 4, 6, 6))
    view = view.select(exclude=("head",), biases=True)
    assert sites(view)["stem.bias"].layout is None
    for pattern in ("per_row", "block", "channel", "unstructured"):
        mask = prune(view, sparsity=0.5, score="random", pattern=pattern, allocation="uniform")
        assert abs(mask.kept / mask.total - 0.5) < 0.03


@pytest.mark.slow
def test_conv1d_of_transformers_is_grouped_along_its_inputs():
    """GPT-2 stores (in, out): the groups of 2:4 run down the columns."""
    from transformers.pytorch_utils import Conv1D

    view = describe(nn.Sequential(Conv1D(6, 8)), example=torch.zeros(1, 8)).select(include=("0.weight",))
    assert view["0.weight"].layout == Layout(transposed=True)
    mask = prune(view, sparsity=0.5, score="magnitude", pattern="n_m", allocation="uniform").keep["0.weight"]
    assert bool((mask.reshape(2, 4, 6).sum(1) == 2).all())


def test_relabelled_hidden_units_are_pruned_alike():
    """Rows of one layer and columns of the next in another order: the mask in that order."""
    first, second = nn.Linear(8, 12), nn.Linear(12, 4)
    net = seeded(nn.Sequential(first, nn.ReLU(), second))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    twin = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    values = {k: v.clone() for k, v in net.state_dict().items()}
    values |= {"0.weight": values["0.weight"][order], "0.bias": values["0.bias"][order]}
    twin.load_state_dict(values | {"2.weight": values["2.weight"][:, order]})
    data = [(torch.randn(16, 8, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 4)]
    for allocation, score in itertools.product(["pooled", "erk", "igq"], ["snip", "magnitude", "synflow"]):
        masks = [
            prune(
                describe(m),
                sparsity=0.6,
                score=score,
                allocation=allocation,
                batches=data,
                schedule="oneshot",
            )
            for m in (net, twin)
        ]
        assert torch.equal(masks[0].keep["0.weight"][order], masks[1].keep["0.weight"])
        assert torch.equal(masks[0].keep["2.weight"][:, order], masks[1].keep["2.weight"])


def test_rounds_that_differ_by_less_than_a_unit():
    """A round may keep less than the next one would allow: that one then keeps all that is left."""
    view = network()
    rounds = MemberSpec("exponential", {"rounds": 60})
    mask = prune(view, sparsity=0.1, score="magnitude", pattern="channel", schedule=rounds)
    budget = round(0.9 * mask.total)
    assert budget - 72 < mask.kept <= budget
    plain = Selector(sites(view), allocations.choose("pooled"), patterns.choose("unstructured"), seed=0)
    scores = {name: torch.rand(keep.shape) for name, keep in mask.keep.items()}
    assert plain(scores, mask, mask.kept + 5, "0") == mask
    assert not scores, "handed over, so that no second copy is held"


@pytest.mark.parametrize("pattern", ["unstructured", "per_row", "block", "channel"])
def test_the_lowest_are_as_many_in_every_weight(pattern):
    """Inverted masks have the layer ratios of the others, and not an entry more in common than must be."""
    view = network()
    shapes = view.prunable_shapes()
    full = Mask.dense(shapes)
    draw = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(shape, generator=draw) for name, shape in shapes.items()}
    scores["stem.weight"] += 0.3
    how = allocations.choose("pooled"), patterns.choose(step(patterns, pattern, ""))
    select = Selector(sites(view), *how, seed=0)
    high = select({name: values.clone() for name, values in scores.items()}, full, full.total // 3, "0")
    kept = {name: count for name, (count, _) in high.counts().items()}
    low = select.of_counts(scores, kept, "0", lowest=True)
    assert low.counts() == high.counts()
    for name, (kept, total) in high.counts().items():
        if pattern == "unstructured":
            assert int((low.keep[name] & high.keep[name]).sum()) == max(0, 2 * kept - total)
        if 0 < kept < total:
            assert scores[name][low.keep[name]].mean() < scores[name][high.keep[name]].mean()
        assert kept / total > 0.4 or name != "stem.weight"


def test_counts_that_are_known_are_kept():
    view = network()
    select = Selector(sites(view), allocations.choose("pooled"), patterns.choose("per_row"), seed=0)
    scores = {name: torch.rand(shape) for name, shape in view.prunable_shapes().items()}
    mask = select.of_counts(scores, {"grouped.weight": 100, "stem.weight": 7}, "again")
    assert {name: kept for name, (kept, _) in mask.counts().items()} == {
        "grouped.weight": 100,
        "stem.weight": 7,
    }
    assert len(scores) == 4
