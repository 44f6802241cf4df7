"""How far above the floor, and how fast, each isometry brings a pruned network back.

SNIP masks (one batch of random images and labels) on fresh orthogonal weights. For every weight the mean over
its blocks of || B Bᵀ - I ||_F, less the floor sqrt(rows - rank) of its mask, where the rank is the size of a
maximum matching of rows and columns: no values of the kept entries go below, and some attain it. The paper's
10,000 steps are extrapolated in time from the first ``--steps``, after which the residual is higher than at
their end. ``--only`` takes patterns of weight names; all others are left out.

    python benchmarks/isometry.py --model resnet32
    python benchmarks/isometry.py --model timm:resnet50 --steps 3
"""

from __future__ import annotations

import argparse
import statistics
import time
from fnmatch import fnmatch
from itertools import pairwise

import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import structural_rank
from torch import Tensor, nn
from torch.nn import functional

from sigprune.base.registry import MemberSpec
from sigprune.base.rng import generator
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe, open_model
from sigprune.propagation.repair import restore_
from sigprune.pruning.choose import prune
from sigprune.values.mask import Mask
from sigprune.values.orthogonality import floor
from sigprune.values.view import View

STEPS = 10_000


class Unit(nn.Module):
    """Two 3x3 convolutions; the shortcut drops every other pixel and pads channels with zeros (option A)."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.stride, self.extra = outside // inside, outside - inside
        self.conv1 = nn.Conv2d(inside, outside, 3, self.stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        padding = (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2)
        return functional.relu(inner + functional.pad(x[:, :, :: self.stride, :: self.stride], padding))


def resnet32() -> nn.Module:
    """The network for CIFAR of He et al. 2015: widths 16, 32 and 64, five units each."""
    widths = [16] * 6 + [32] * 5 + [64] * 5
    units = [Unit(*pair) for pair in pairwise(widths)]
    stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
    return nn.Sequential(*stem, *units, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet32")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the paper, carried out (0: none)")
    parser.add_argument("--only", nargs="*", default=["*"])
    parser.add_argument("--methods", nargs="*", default=["rescale", "lbfgs", "thin", "tight"])
    arguments = parser.parse_args()
    size, classes, examples = (32, 10, 100) if arguments.model == "resnet32" else (224, 1000, 8)
    network = resnet32() if arguments.model == "resnet32" else open_model(arguments.model)
    draw = generator(0, "benchmark", "images")
    batch = (
        torch.randn(examples, 3, size, size, generator=draw),
        torch.randint(classes, (examples,), generator=draw),
    )
    view = describe(network, example=batch[0][:1]) if arguments.model == "resnet32" else describe(network)
    reinit_(view)
    mask = prune(view, sparsity=arguments.sparsity, batches=[batch])
    chosen = Mask({n: k for n, k in mask.keep.items() if any(fnmatch(n, one) for one in arguments.only)})
    known, exact = floors(view, chosen)
    counted = f"{len(chosen.keep)} of {len(mask.keep)} weights"
    print(f"{arguments.model}, sparsity {arguments.sparsity}, {counted}, floor {exact:.4f}")
    print(f"(rows and columns that keep nothing: {known:.4f}), ", end="")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| isometry | above the floor | seconds | kept entries below 0.001 |\n|---|---|---|---|")
    paper = (
        [MemberSpec("gradient_descent", {"steps": arguments.steps, "patience": 0, "last": True})]
        if arguments.steps
        else []
    )
    options = {"thin": ("lbfgs", {"thin": True}), "tight": ("lbfgs", {"tolerance": 1e-6})}
    for step in [*paper, *(MemberSpec(*options.get(name, (name,))) for name in arguments.methods)]:
        reinit_(view)
        start = time.perf_counter()
        done = restore_(view, chosen, step)
        seconds = time.perf_counter() - start
        name = ", ".join([step.name, *(f"{k} {v}" for k, v in step.options.items())])
        told = f"{seconds:.1f}"
        if step in paper:
            print(f"| (none) | {done.score_before - exact:.3g} | | |")
            if arguments.steps < STEPS:
                told = f"{seconds * STEPS / arguments.steps:.0f} for {STEPS} (from {seconds:.1f})"
        small = statistics.fmean(empty(view.params()[n], k) for n, k in chosen.keep.items())
        print(f"| {name} | {done.score_after - exact:.3g} | {told} | {small:.0%} |", flush=True)


def empty(weight: Tensor, keep: Tensor) -> float:
    """The share of kept entries that are nearly zero."""
    return float((weight[keep].abs() < 1e-3).float().mean()) if bool(keep.any()) else 0.0


def floors(view: View, mask: Mask) -> tuple[float, float]:
    """Means over weights: what rows and columns that keep nothing force, and the exact floor."""
    known, exact = [], []
    for weight in view.weights:
        if weight.name in mask.keep:
            blocks = [keep.flatten(1) for keep in weight.layout.blocks(mask.keep[weight.name])]
            known.append(statistics.fmean(float(floor(block[None])) for block in blocks))
            ranks = [structural_rank(csr_matrix(block.numpy())) for block in blocks]
            exact.append(
                statistics.fmean(max(len(b) - r, 0) ** 0.5 for b, r in zip(blocks, ranks, strict=True))
            )
    return statistics.fmean(known), statistics.fmean(exact)


if __name__ == "__main__":
    main()
