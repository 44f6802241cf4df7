"""Lee et al. 2020 (arXiv 1906.06307) once more: singular values of Table 1, orthogonality scores of Table 2.

The numbers to compare with are remembered, not read: no copy of the paper was at hand. Table 1 (7-layer tanh
network, scaled Gaussians N(0, gamma)) is measured on Fashion-MNIST here, the paper's on MNIST. Table 2 has
smooth random images with random labels here, CIFAR-10 in the paper; SNIP at sparsity 0.9, biases prunable,
BatchNorm in evaluation mode with its initial statistics, as in the authors' release.

    python benchmarks/paper.py            # both tables, about a quarter of an hour on two cores
    python benchmarks/paper.py --table 1
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings

import torch
from paper_networks import ResNet, mlp, vgg16
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sigprune import Mask, MemberSpec, View, describe, jacobian, measure, prune, reinit_, restore_
from sigprune.base.errors import DataError
from sigprune.base.rng import generator
from sigprune.families.datasets import datasets
from sigprune.pruning.choose import DeadWeights
from sigprune.values.orthogonality import residual

Batches = list[tuple[Tensor, Tensor]]

# gamma: JSV mean, JSV std, sparsity of each layer
TABLE_1 = {
    1e-4: (2.46e-07, 9.90e-08, (0.97, 0.80, 0.80, 0.80, 0.80, 0.81, 0.48)),
    1e-3: (5.74e-04, 2.45e-04, (0.97, 0.80, 0.80, 0.80, 0.80, 0.81, 0.48)),
    1e-2: (4.49e-01, 2.51e-01, (0.96, 0.80, 0.80, 0.80, 0.81, 0.81, 0.49)),
    1e-1: (2.30e01, 2.56e01, (0.96, 0.81, 0.82, 0.82, 0.82, 0.80, 0.45)),
    1e0: (1.03e03, 2.61e03, (0.85, 0.88, 0.99, 1.00, 1.00, 1.00, 0.91)),
    1e1: (3.67e04, 2.64e05, (0.84, 0.95, 1.00, 1.00, 1.00, 1.00, 1.00)),
}
INITS = {"VS-L": "lecun", "VS-G": "xavier", "VS-H": "kaiming", "LDI": "block_orthogonal"}
# network: score of each init before restoration, score of LDI after it
TABLE_2 = {
    "VGG16": ({"VS-L": 13.72, "VS-G": 13.60, "VS-H": 15.44, "LDI": 13.33}, 6.43),
    "ResNet-32": ({"VS-L": 4.50, "VS-G": 4.55, "VS-H": 4.41, "LDI": 4.43}, 2.62),
    "ResNet-56": ({"VS-L": 4.64, "VS-G": 4.67, "VS-H": 4.44, "LDI": 4.51}, 2.79),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=int, choices=(1, 2), help="one of them only")
    parser.add_argument("--seeds", type=int, default=3, help="initialisations, averaged")
    parser.add_argument("--batches", type=int, default=10, help="of 100 examples, to score with")
    parser.add_argument("--networks", nargs="*", default=list(TABLE_2))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DeadWeights)  # every bias is zero at initialisation
    print(f"{arguments.seeds} seeds, {arguments.batches} batches, torch {torch.__version__}\n", flush=True)
    if arguments.table != 2:
        table_1(arguments.seeds, arguments.batches)
    if arguments.table != 1:
        table_2(arguments.networks, arguments.seeds, arguments.batches)


def table_1(seeds: int, count: int) -> None:
    batches, source = images_of_clothes(max(count, 20))
    inputs, batches = torch.cat([images for images, _ in batches[:20]]), batches[:count]
    print(f"Table 1: 7-layer tanh network, values at {len(inputs)} inputs, {source}\n")
    print(
        "| gamma | JSV mean (remembered) | off | JSV std (remembered) | off | layer sparsities (remembered) |"
    )
    print("|---|---|---|---|---|---|")
    for gamma, (mean, std, layers) in TABLE_1.items():
        found = [jsv(gamma, seed, inputs) for seed in range(seeds)]
        means, stds = (statistics.mean(values) for values in zip(*found, strict=True))
        view = describe(mlp())
        reinit_(view, MemberSpec("normal", {"std": math.sqrt(gamma)}))
        mask = snip(view, batches)
        removed = [
            f"{1 - float(keep.float().mean()):.2f}" for name, keep in mask.keep.items() if "weight" in name
        ]
        print(
            f"| {gamma:g} | {means:.3g} ({mean:.3g}) | {means / mean - 1:+.0%} | {stds:.3g} ({std:.3g}) | "
            f"{stds / std - 1:+.0%} | {' '.join(removed)} ({' '.join(f'{s:.2f}' for s in layers)}) |",
            flush=True,
        )
    print()


def jsv(gamma: float, seed: int, inputs: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the pooled singular values of the dense network's Jacobian.

    At gamma = 10 few inputs have most of the sum: a hundred inputs leave 22 % of uncertainty in the mean.
    """
    view = describe(mlp())
    reinit_(view, MemberSpec("normal", {"std": math.sqrt(gamma)}), seed=seed)
    found = [measure(jacobian(view, part, dtype=torch.float64)).values for part in inputs.split(500)]
    values = torch.cat(found)
    return float(values.mean()), float(values.std())


def table_2(networks: list[str], seeds: int, count: int) -> None:
    batches = smooth_images(count)
    print("Table 2: orthogonality scores at sparsity 0.9, before and after restoring isometry\n")
    print("| network | init | before (remembered) | off | after, lbfgs (remembered) | seconds |")
    print("|---|---|---|---|---|---|")
    for network in networks:
        remembered, restored = TABLE_2[network]
        for init, score in remembered.items():
            start = time.perf_counter()
            found = [scores(network, INITS[init], seed, batches) for seed in range(seeds)]
            before, after = (statistics.mean(values) for values in zip(*found, strict=True))
            beside = f" ({restored})" if init == "LDI" else ""
            print(
                f"| {network} | {init} | {before:.2f} ({score}) | {before / score - 1:+.1%} | "
                f"{after:.2f}{beside} | {(time.perf_counter() - start) / seeds:.0f} |",
                flush=True,
            )


def scores(network: str, init: str, seed: int, batches: Batches) -> tuple[float, float]:
    """Orthogonality scores of one pruned network, before and after isometry is restored."""
    view, mask = pruned(network, init, seed, batches)
    done = restore_(view, mask)
    return done.score_before, done.score_after


def pruned(network: str, init: str, seed: int, batches: Batches) -> tuple[View, Mask]:
    depth = network.removeprefix("ResNet-")
    module: nn.Module = vgg16() if network == "VGG16" else ResNet(int(depth))
    view = describe(module, batchnorm="fresh")
    reinit_(view, init, seed=seed)
    return view, snip(view, batches)


def snip(view: View, batches: Batches) -> Mask:
    """As in the authors' release: weights and biases in one ranking, gradients summed over all batches."""
    return prune(view.select(biases=True), sparsity=0.9, score="snip", batches=batches)


def orthogonality_score(view: View, mask: Mask) -> float:
    """Mean over weights of || (C ⊙ W)(C ⊙ W)ᵀ - I ||_F, kernels flattened: the column of Table 2."""
    tensors = {w.name: view.params()[w.name] * mask.keep[w.name] for w in view.weights}
    return statistics.mean(float(residual(tensor.flatten(1)[None].double())) for tensor in tensors.values())


def smooth_images(count: int, size: int = 100) -> Batches:
    """Gaussian noise of 8x8 pixels, enlarged to 32x32 and standardised; random labels."""
    draw = generator(0, "benchmark", "images")
    coarse = torch.randn(count * size, 3, 8, 8, generator=draw)
    images = interpolate(coarse, size=(32, 32), mode="bicubic", align_corners=False)
    images = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
    labels = torch.randint(10, (count * size,), generator=draw)
    return list(zip(images.split(size), labels.split(size), strict=True))


def images_of_clothes(count: int, size: int = 100) -> tuple[Batches, str]:
    """Fashion-MNIST, standardised by one mean and deviation; Gaussian inputs where it is not to be had."""
    try:
        data = datasets.get("fashion_mnist").load()
    except DataError:
        draw = generator(0, "benchmark", "images")
        images = torch.randn(count * size, 784, generator=draw)
        labels = torch.randint(10, (count * size,), generator=draw)
        return list(zip(images.split(size), labels.split(size), strict=True)), "Gaussian inputs"
    images, labels = data.train
    rows = torch.randperm(len(labels), generator=generator(0, "benchmark", "rows"))[: count * size]
    chosen = images[rows].flatten(1), labels[rows]
    return list(zip(*(tensor.split(size) for tensor in chosen), strict=True)), data.source


if __name__ == "__main__":
    main()
