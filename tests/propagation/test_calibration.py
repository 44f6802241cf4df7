"""Calibration: which part is scaled, by how much, and what is left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sigprune.base.errors import BadInput
from sigprune.base.rng import generator
from sigprune.init.policy import InitPolicy
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe
from sigprune.propagation.calibration import ScaledClassifier, calibrate_
from sigprune.propagation.measurement import measure
from sigprune.pruning.choose import apply_, prune
from sigprune.values.operator import jacobian
from tests.support.networks import mlp


class Normalised(nn.Module):
    """Embeddings before a norm, layers whose scale a norm takes away, and a head."""

    def __init__(self, *, embed: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 16) if embed else None
        self.inner = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.norm(self.inner(x)))


def inputs(examples: int, features: int) -> torch.Tensor:
    return torch.randn(examples, features, generator=generator(0, "test", "calibrating"))


def root_mean_square(view, x):
    return float(measure(jacobian(view, x), "exact").values.square().mean().sqrt())


def test_a_linear_network_is_scaled_by_the_root_of_what_it_lacks():
    view = describe(mlp((20, 20, 20, 10), activation=None))
    reinit_(view)
    with torch.no_grad():
        for p in view.module.parameters():
            p.mul_(0.7)
    done = calibrate_(view, inputs(2, 20), probes=64)
    assert done.before == pytest.approx(0.343, rel=0.1)
    # two inner layers make up for all three: the head stays
    assert dict(done.factors) == {"weights": pytest.approx(0.343**-0.5, rel=0.15)}
    assert done.after == pytest.approx(1, rel=0.1)
    assert root_mean_square(view, inputs(2, 20)) == pytest.approx(done.after, rel=0.1)


@pytest.mark.parametrize("target", [0.3, 1.0, 3.0])
def test_deep_rectified_networks_reach_the_target(target):
    """Half of the directions are lost at each of twelve layers; a factor near sqrt(2) brings them back."""
    view = describe(mlp((64,) * 12 + (10,), activation=nn.ReLU))
    reinit_(view)
    x = inputs(4, 64)
    before = root_mean_square(view, x)
    done = calibrate_(view, x, target=target, tolerance=0.02, probes=32)
    assert before < 0.1
    assert root_mean_square(view, x) == pytest.approx(target, rel=0.15)
    assert 1.2 < done.factors["weights"] < 1.8


def test_a_pruned_network_keeps_its_mask():
    view = describe(mlp((64, 64, 64, 10), activation=nn.ReLU))
    reinit_(view)
    mask = prune(view, sparsity=0.9, score="random")
    apply_(view, mask)
    x = inputs(8, 64)
    assert root_mean_square(view, x) < 0.1
    calibrate_(view, x)
    mask.check(view.params())
    assert root_mean_square(view, x) == pytest.approx(1, rel=0.3)


@pytest.mark.parametrize("sparsity", [0.8, 0.9, 0.95])
def test_a_pruned_network_is_scaled_where_it_was_pruned(sparsity):
    """Not its classifier by hundreds, which leaves the layers before it with nothing to learn from."""
    view = describe(mlp((128,) * 7 + (10,), activation=nn.ReLU))
    reinit_(view)
    mask = prune(view, sparsity=sparsity, score="random", allocation="uniform")
    apply_(view, mask)
    x = inputs(8, 128)
    done = calibrate_(view, x)
    mask.check(view.params())
    assert set(done.factors) == {"weights"}
    # a layer of which a share s is left passes sqrt(s) of the signal, and rectifying it half of that in power
    assert done.factors["weights"] == pytest.approx((2 / (1 - sparsity)) ** 0.5, rel=0.35)
    assert done.after == pytest.approx(1, rel=0.1)


def test_a_classifier_that_must_make_up_for_all_is_named():
    view = describe(Normalised(embed=False), example=torch.zeros(1, 16))
    reinit_(view)
    with torch.no_grad():
        view.module.norm.weight.fill_(1e-3)  # no part that is scaled
    with pytest.warns(ScaledClassifier, match=r"the classifier of Normalised was multiplied by \d+"):
        done = calibrate_(view, inputs(4, 16))
    assert done.factors["heads"] > 10


def test_parts_that_a_norm_makes_irrelevant_are_left_alone():
    view = describe(Normalised(embed=False), example=torch.zeros(1, 16))
    reinit_(view, policy=InitPolicy(head="normal"))
    before = copy.deepcopy(view.module.state_dict())
    done = calibrate_(view, inputs(4, 16))
    assert set(done.factors) == {"heads"}
    after = view.module.state_dict()
    assert torch.equal(before["inner.weight"], after["inner.weight"])
    torch.testing.assert_close(after["head.weight"], before["head.weight"] * done.factors["heads"])


def test_tables_come_first_where_there_are_some():
    view = describe(Normalised(embed=True), example=torch.zeros(1, 16))
    reinit_(view)
    table = view.params()["table.weight"].clone()
    done = calibrate_(view, inputs(4, 16))
    # the table is not on this network's path: it comes first, changes nothing, and is left alone
    assert "embeddings" not in done.factors
    assert torch.equal(view.params()["table.weight"], table)


def test_small_embeddings_before_a_norm_are_enlarged():
    from sigprune.models.opening import open_model

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    view = describe(open_model("transformers:bert", args={**sizes, "vocab_size": 100}))
    reinit_(view)
    ids = torch.randint(100, (2, 12), generator=generator(0, "test", "ids"))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    done = calibrate_(view, batch)
    assert done.before > 3
    assert set(done.factors) == {"embeddings"}
    assert done.factors["embeddings"] == pytest.approx(done.before, rel=0.5)
    assert done.after == pytest.approx(1, rel=0.1)


def test_good_networks_stay_as_they_are():
    view = describe(mlp((20, 20, 10), activation=None))
    reinit_(view)
    before = copy.deepcopy(view.module.state_dict())
    assert calibrate_(view, inputs(2, 20), probes=64).factors == {}
    assert all(torch.equal(t, view.module.state_dict()[n]) for n, t in before.items())


def test_what_no_scale_can_mend():
    view = describe(mlp((20, 20, 10), activation=None))
    with pytest.raises(BadInput, match=r"expected a positive target and tolerance, got 0 and 0\.1"):
        calibrate_(view, inputs(2, 20), target=0)
    with torch.no_grad():
        view.params()[view.weights[0].name].zero_()
    with pytest.raises(BadInput, match="singular value is 0: no scale mends that"):
        calibrate_(view, inputs(2, 20))


def test_a_network_whose_output_is_normalised_says_so_and_is_left_alone():
    view = describe(nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16, elementwise_affine=False)))
    view.module[1].eps = 1e-12
    reinit_(view)
    before = copy.deepcopy(view.module.state_dict())
    with pytest.raises(BadInput, match=r"no scale of .* brings the root mean square singular value from"):
        calibrate_(view, 1e-3 * inputs(2, 16))
    assert all(torch.equal(t, view.module.state_dict()[n]) for n, t in before.items())
