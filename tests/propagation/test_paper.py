"""The paper's networks, initialised, scored and measured: figures of Lee et al. 2020, Tables 1 and 2.

The figures are remembered (no copy of the paper was at hand); benchmarks/paper.py prints the whole tables.
"""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.paper_networks import ResNet, mlp, vgg16
from sigprune.base.registry import MemberSpec
from sigprune.base.rng import generator
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe
from sigprune.propagation.measurement import measure
from sigprune.pruning.choose import prune
from sigprune.values.operator import jacobian
from sigprune.values.orthogonality import residual

# Table 1: gamma -> mean and standard deviation of the Jacobian's singular values
SCALED_GAUSSIANS = {
    1e-4: (2.46e-07, 9.90e-08),
    1e-3: (5.74e-04, 2.45e-04),
    1e-2: (4.49e-01, 2.51e-01),
    1e-1: (2.30e01, 2.56e01),
    1e0: (1.03e03, 2.61e03),
}


@pytest.mark.parametrize(("module", "count"), [
    (mlp(), 130_010), (vgg16(), 10_526_538), (ResNet(32), 463_018), (ResNet(56), 850_986),
])  # fmt: skip
def test_the_networks_have_the_papers_size(module, count):
    """With biases, without BatchNorm's own parameters."""
    norms = {id(p) for m in module.modules() if "BatchNorm" in type(m).__name__ for p in m.parameters()}
    assert sum(p.numel() for p in module.parameters() if id(p) not in norms) == count


@pytest.mark.parametrize("gamma", SCALED_GAUSSIANS)
def test_singular_values_of_table_1(gamma):
    """The dense 7-layer tanh network at Gaussian inputs."""
    inputs = torch.randn(300, 784, generator=generator(0, "test", "inputs"))
    view = describe(mlp())
    pooled = []
    for seed in range(3):
        reinit_(view, MemberSpec("normal", {"std": math.sqrt(gamma)}), seed=seed)
        pooled.append(measure(jacobian(view, inputs, dtype=torch.float64)).values)
    values = torch.cat(pooled)
    mean, std = SCALED_GAUSSIANS[gamma]
    assert float(values.mean()) == pytest.approx(mean, rel=0.2)
    assert float(values.std()) == pytest.approx(std, rel=0.2)


@pytest.mark.filterwarnings("ignore::sigprune.pruning.choose.DeadWeights")  # biases are zero
@pytest.mark.parametrize(("init", "score"), [("lecun", 4.50), ("block_orthogonal", 4.43)])
def test_orthogonality_score_of_table_2(init, score):
    """ResNet-32, SNIP at sparsity 0.9 with biases prunable, BatchNorm with its initial statistics."""
    draw = generator(0, "test", "images")
    coarse = torch.randn(200, 3, 8, 8, generator=draw)
    images = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic", align_corners=False)
    images /= images.std()
    labels = torch.randint(10, (200,), generator=draw)
    view = describe(ResNet(32), batchnorm="fresh")
    reinit_(view, init)
    batches = list(zip(images.split(100), labels.split(100), strict=True))
    mask = prune(view.select(biases=True), sparsity=0.9, score="snip", batches=batches)
    kept = [view.params()[w.name] * mask.keep[w.name] for w in view.weights]
    residuals = [float(residual(tensor.flatten(1)[None])) for tensor in kept]
    assert sum(residuals) / len(residuals) == pytest.approx(score, rel=0.03)
