"""Layer-wise isometry: matrices and operators of every weight, against dense references."""

from __future__ import annotations

import math

import pytest
import torch
from timm import layers
from torch import nn
from torch.nn.utils import parametrizations

from sigprune.base.errors import BadInput, UnknownName
from sigprune.base.registry import MemberSpec
from sigprune.base.rng import generator
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe, open_model
from sigprune.propagation import layerwise
from sigprune.propagation.layerwise import layer_isometry
from sigprune.pruning.choose import apply_, prune
from sigprune.values.mask import Mask
from sigprune.values.orthogonality import Isometry, residual, spectrum_of
from sigprune.values.spectrum import Estimate, Spectrum
from tests.support.networks import SmallConv, mlp, seeded, small_views


def jacobian(layer, *shape: int) -> torch.Tensor:
    """Dense, of the weight alone: torch runs the layer, in float64."""
    point = torch.zeros(1, *shape, dtype=torch.float64)
    dense = torch.autograd.functional.jacobian(layer.double(), point)
    return dense.reshape(math.prod(dense.shape) // point.numel(), point.numel())


def expected(values: torch.Tensor, gain: float = 1.0) -> list[float]:
    ratios = values / gain
    return [
        float(values.min()), float(values.mean()), float(values.max()), float(values.std(correction=0)),
        float((ratios - 1).abs().max()), float((ratios.square() - 1).square().mean()),
    ]  # fmt: skip


def stated(found: Isometry) -> list[float]:
    return [found.min, found.mean, found.max, found.std, found.epsilon, found.gap]


def test_matrices_of_every_weight():
    for view in small_views().values():
        rows = layer_isometry(view, gains=1.3)
        assert [row.name for row in rows] == [weight.name for weight in view.weights]
        for row in rows:
            blocks = [b.flatten(1).double() for b in view[row.name].layout.blocks(view.params()[row.name])]
            values = torch.cat([torch.linalg.svdvals(block) for block in blocks])
            assert row.blocks == len(blocks)
            assert row.matrix.count == len(values)
            assert stated(row.matrix) == pytest.approx(expected(values, 1.3), abs=1e-9)
            small = [block if len(block) <= block.shape[1] else block.T for block in blocks]
            mean = sum(float(residual(block[None] / 1.3)) for block in small) / len(small)
            assert row.matrix.residual == pytest.approx(mean)


def test_operators_are_those_of_the_layers():
    """As torch pads them, and as if it padded circularly."""
    view = small_views()["conv"]
    padded = layer_isometry(view, operator="padded", gains=0.5)
    circular = layer_isometry(view)
    for name, layer, shape in (
        ("conv1.weight", view.module.conv1, (3, 8, 8)),
        ("conv2.weight", view.module.conv2, (8, 8, 8)),
    ):
        (row,) = (row for row in padded if row.name == name)
        values = torch.linalg.svdvals(jacobian(layer, *shape))[: row.operator.count]
        assert row.size == shape[1:]
        assert stated(row.operator) == pytest.approx(expected(values, 0.5), rel=1e-4)
        layer.padding_mode = "circular"
        (row,) = (row for row in circular if row.name == name)
        layer._reversed_padding_repeated_twice = [1, 1, 1, 1]
        values = torch.linalg.svdvals(jacobian(layer, *shape))[: row.operator.count]
        assert stated(row.operator) == pytest.approx(expected(values), rel=1e-4)
        layer.float()
    assert padded[-1].operator is None
    assert all(row.operator is None for row in layer_isometry(view, operator="none"))


@pytest.mark.parametrize("gain", [1.0, 1.5])
def test_orthogonal_kernels_and_orthogonal_convolutions(gain):
    view = describe(SmallConv(), example=torch.zeros(1, 3, 8, 8))
    for init, kernels, maps in (("orthogonal", True, False), ("block_orthogonal", False, True)):
        reinit_(view, MemberSpec(init, {"gain": gain}))
        first = layer_isometry(view, gains={w.name: gain for w in view.weights})[0]
        assert (first.matrix.epsilon < 1e-5) is kernels
        assert (first.operator.epsilon < 1e-5) is maps


@pytest.mark.parametrize(
    "name",
    [
        "timm:test_nfnet",
        "timm:test_resnet",
        "timm:test_efficientnet",
        "timm:tf_mobilenetv3_small_minimal_100",
    ],
)
def test_real_convolutions_explain_themselves(name):
    """Standardised ones, TensorFlow's padding, depthwise ones: every one of them has an operator."""
    view = describe(open_model(name))
    batch = torch.randn(1, 3, 64, 64, generator=generator(0, "test"))
    for row in layer_isometry(view, batch):
        assert (row.operator is not None) is (view[row.name].convolution is not None), row.name
        assert not row.note


@pytest.mark.parametrize("kind", [layers.StdConv2d, layers.StdConv2dSame, layers.ScaledStdConv2dSame])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 1)])
def test_standardised_layers_count_as_used(kind, kernel, stride):
    layer = seeded(kind(3, 5, kernel, stride=stride))
    (row,) = layer_isometry(describe(layer, example=torch.ones(1, 3, 7, 6)), operator="padded")
    dense = torch.linalg.svdvals(jacobian(layer, 3, 7, 6))
    assert stated(row.operator) == pytest.approx(expected(dense), rel=1e-5)
    used = describe(layer).weights[0].effective(dict(layer.named_parameters())).flatten(1)
    assert stated(row.matrix) == pytest.approx(expected(torch.linalg.svdvals(used)), rel=1e-5)
    stored = torch.linalg.svdvals(layer.weight.detach().flatten(1))
    assert row.matrix.max != pytest.approx(float(stored.max()), rel=0.01)


def test_weight_normalised_layers_count_as_used():
    layer = parametrizations.weight_norm(nn.Conv1d(4, 6, 3, padding=1))
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(torch.linspace(0.5, 3, 6).reshape(6, 1, 1))
    (row,) = layer_isometry(describe(layer, example=torch.zeros(1, 4, 7)), operator="padded")
    used = layer.weight.detach().double()
    assert stated(row.matrix) == pytest.approx(expected(torch.linalg.svdvals(used.flatten(1))), rel=1e-5)
    assert stated(row.operator) == pytest.approx(
        expected(torch.linalg.svdvals(jacobian(layer, 4, 7))[:28]), rel=1e-4
    )


def test_masks_change_the_figures_and_not_the_model():
    view = small_views()["conv"]
    before = {name: tensor.clone() for name, tensor in view.params().items()}
    mask = prune(view, sparsity=0.5, score="magnitude")
    masked = layer_isometry(view, mask=mask)
    assert all(torch.equal(tensor, before[name]) for name, tensor in view.params().items())
    assert not any(module._forward_hooks for module in view.module.modules())
    dense = layer_isometry(view)
    apply_(view, mask)
    assert layer_isometry(view) == masked != dense


def test_dead_rows_and_inputs():
    view = small_views()["conv"]
    keep = {name: torch.ones(shape, dtype=torch.bool) for name, shape in view.prunable_shapes().items()}
    keep["conv2.weight"][:2] = False  # two outputs of the first group, whose other output
    keep["conv2.weight"][2, 1] = False  # does not use the second input
    keep["head.weight"][:, 3] = False
    rows = {row.name: row for row in layer_isometry(view, mask=Mask(keep))}
    assert [(row.dead_outputs, row.dead_inputs) for row in rows.values()] == [(0, 0), (2, 1), (0, 1)]


class Causal(nn.Conv1d):
    """Pads at the front only, in a way that no attribute tells."""

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (2, 0)))


class Stacked(nn.Module):
    def __init__(self):
        super().__init__()
        self.causal = Causal(3, 3, 3)
        self.twice = nn.Conv1d(3, 3, 3, padding=1)
        self.never = nn.Conv1d(3, 3, 1)

    def forward(self, x):
        return self.twice(self.twice(self.causal(x)))


def test_what_cannot_be_measured_says_why():
    view = describe(Stacked(), example=torch.ones(1, 3, 9))
    rows = layer_isometry(view)
    assert [row.note.partition(":")[0] for row in rows] == [
        "its module does something else than this convolution", "run 2 times", "its module was not called",
    ]  # fmt: skip
    assert [row.operator is None for row in rows] == [True, False, True]
    assert all(row.matrix is not None for row in rows)
    wide = describe(nn.Conv2d(4, 4, 3, padding=1), example=torch.ones(1, 4, 40, 40))
    (row,) = layer_isometry(wide, operator="padded")
    assert "takes 6400 products, over the limit" in row.note
    with torch.no_grad():
        wide.module.weight[0, 0, 0, 0] = torch.nan
    (row,) = layer_isometry(wide)
    assert (row.note, row.matrix, row.operator) == ("holds NaN or infinity", None, None)


def test_matrices_that_are_too_large_are_left_out(monkeypatch):
    monkeypatch.setattr(layerwise, "MAX_SIDE", 4)
    rows = layer_isometry(describe(nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 3))))
    assert rows[0].note == "a matrix with 5 rows and columns, over the 4"
    assert rows[0].matrix is None
    assert rows[1].matrix is not None


def test_the_gram_matrix_gives_the_same_values(monkeypatch):
    blocks = torch.randn(2, 40, 12, generator=generator(0, "test"))
    direct = spectrum_of(blocks)
    monkeypatch.setattr("sigprune.values.orthogonality._DIRECT", 5)
    monkeypatch.setattr("sigprune.values.orthogonality._PART", 7)
    for matrices in (blocks, blocks.mT):
        torch.testing.assert_close(spectrum_of(matrices), direct)


def test_embeddings_are_left_out():
    view = describe(nn.Sequential(nn.Embedding(16, 4), nn.Linear(4, 3)))
    assert [row.name for row in layer_isometry(view)] == ["1.weight"]


def test_estimates_leave_out_what_they_do_not_know():
    known = Spectrum(
        torch.empty(1, 0, dtype=torch.float64), "moments", count=9,
        mean_square=Estimate(1.1, 0.1), gap=Estimate(0.25, 0.1),
    )  # fmt: skip
    found = Isometry.of_ratios(known, 2.0, 1)
    assert found.residual == pytest.approx(1.5)
    assert math.isnan(found.epsilon)
    assert math.isnan(found.max)


def test_bad_input():
    view = describe(mlp())
    with pytest.raises(BadInput, match=r"2\.weight: the gain .* expected > 0, got nan"):
        layer_isometry(view, gains={"0.weight": 1.0})
    with pytest.raises(BadInput, match="got -1"):
        layer_isometry(view, gains=-1)
    with pytest.raises(UnknownName, match="did you mean padded"):
        layer_isometry(view, operator="paded")
    with pytest.raises(UnknownName, match="did you mean exact"):
        layer_isometry(view, method="exat")
    with torch.device("meta"):
        sketch = describe(nn.Linear(3, 3))
    with pytest.raises(BadInput, match="meta device"):
        layer_isometry(sketch)


def test_progress_is_told():
    told = []
    layer_isometry(describe(seeded(mlp())), on_progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
