"""What spectra cost and how close their estimates are: the Jacobian of a classifier at one random image.

1. ``exact`` against as many plain vector-Jacobian products at their best batch size (taken in between).
2. The memory of batched products against the bound that they were given.
3. ``moments`` and ``lanczos`` against the exact spectrum; also how many of 200 seeds reach an accuracy, on a
   diagonal map with the same singular values (probes are uniform on a sphere: nothing else matters).

    python benchmarks/spectra.py --model timm:resnet50
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sigprune.base.rng import generator
from sigprune.families.spectra import spectra
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe, open_model
from sigprune.propagation.measurement import measure
from sigprune.values.operator import Operator, jacobian
from sigprune.values.view import View

BATCHES = (1, 4, 8, 16, 32)
BOUNDS = (0.1, 0.4, 1.6)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="timm:resnet50")
    parser.add_argument("--memory", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    view = describe(open_model(arguments.model))
    image = torch.randn(view.example.inputs["x"].shape[1:], generator=generator(0, "benchmark"))[None]
    if arguments.memory is not None:
        products_within(view, image, arguments.memory)
        return
    print(f"{arguments.model}, {torch.get_num_threads()} threads, torch {torch.__version__}\n", flush=True)
    operator = jacobian(view, image)
    exact = cost(view, image)
    memory(arguments.model)
    print(
        "\n| weights | what | products | relative error | its 2 SE, or bound | seconds |\n" + "|---" * 6 + "|"
    )
    accuracy("as opened", operator, exact)
    reinit_(view, "orthogonal")
    operator = jacobian(view, image)
    accuracy("orthogonal", operator, measure(operator, "exact").values[0])


def cost(view: View, image: Tensor) -> Tensor:
    """Plain products in between those of the exact spectrum: the machine may have other work."""
    rounds = [{b: plain(view, image, b) for b in BATCHES} for _ in range(2)]
    seconds = {b: min(one[b] for one in rounds) for b in BATCHES}
    best = min(seconds, key=seconds.__getitem__)
    operator, beside = jacobian(view, image), []

    def product(cotangents: Tensor) -> Tensor:
        if not len(times) % 4:
            start = time.perf_counter()
            beside.append(plain(view, image, best, 32))
            lost.append(time.perf_counter() - start)
        start = time.perf_counter()
        rows = operator.rmatmat(cotangents)
        times.append((time.perf_counter() - start) / len(cotangents))
        return rows

    times: list[float] = []
    lost: list[float] = []
    start = time.perf_counter()
    values = measure(replace(operator, rmatmat=product), "exact").values[0]
    whole, count = time.perf_counter() - start - sum(lost), operator.shape[0]
    print("| plain products in a batch | " + " | ".join(map(str, BATCHES)) + " |\n" + "|---" * 6 + "|")
    print(f"| seconds for {count} | " + " | ".join(f"{count * seconds[b]:.1f}" for b in BATCHES) + " |")
    mean = count * statistics.mean(beside)
    print(
        f"\nexact: {whole:.1f} s; {count} plain ones in batches of {best}, in between: {mean:.1f} s; ", end=""
    )
    print(f"ratio {whole / mean:.2f}; of the products alone {sum(times) / len(times) * count / mean:.2f}")
    sys.stdout.flush()
    return values


def plain(view: View, image: Tensor, batch: int, count: int = 32) -> float:
    """Seconds per product: the image repeated, so that one backward pass is a batch of products."""
    leaf = image.repeat(batch, *[1] * (image.dim() - 1)).requires_grad_()
    output = view.forward(view.params(), view.read(leaf))
    cotangents = torch.eye(output.shape[1]).split(batch)[: max(1, count // batch)]
    torch.autograd.grad(output, leaf, cotangents[0], retain_graph=True)
    start = time.perf_counter()
    for cotangent in cotangents:
        torch.autograd.grad(output, leaf, cotangent, retain_graph=True)
    return (time.perf_counter() - start) / (batch * len(cotangents))


def memory(model: str) -> None:
    """Each bound in a process of its own, whose peak is known."""
    print("\n| bound, GiB | 64 products took, GiB | peak of the process, GiB |\n|---|---|---|")
    for bound in BOUNDS:
        command = [sys.executable, __file__, "--model", model, "--memory", str(bound)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


def products_within(view: View, image: Tensor, bound: float) -> None:
    operator = jacobian(view, image, max_memory_gib=bound)
    units = torch.eye(operator.shape[0])[:64, None]
    operator.rmatmat(units[:1])
    before = peak()
    results = operator.rmatmat(units).nbytes / 2**30
    print(f"| {bound} | {peak() - before:.2f}, of which {results:.2f} are results | {peak():.2f} |")


def peak() -> float:
    """GiB; from Linux, whose ``getrusage`` would count the process that started this one."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def accuracy(weights: str, operator: Operator, exact: Tensor) -> None:
    mean_square = float(exact.square().mean())

    def moments(on: Operator, seed: int) -> tuple[float, float]:
        found = spectra.get("moments").measure(on, generator(seed, "benchmark")).mean_square
        return abs(found.value / mean_square - 1), 2 * found.error / mean_square

    report(f"{weights} | mean square, moments | 64", moments, operator, exact, 0.02)
    for steps in (30, 40):

        def top(on: Operator, seed: int, steps: int = steps) -> tuple[float, float]:
            found = spectra.get("lanczos").measure(on, generator(seed, "benchmark"), steps=steps)
            errors, bounds = (found.top[0] / exact[:10] - 1).abs(), found.bounds[0] / exact[:10]
            return float(errors.max()), float(bounds.max())

        report(f"{weights} | top 10, lanczos | {2 * steps}", top, operator, exact, 0.01)


Accuracy = Callable[[Operator, int], tuple[float, float]]


def report(what: str, estimate: Accuracy, operator: Operator, exact: Tensor, goal: float) -> None:
    found, seconds = [], []
    for seed in range(2):
        start = time.perf_counter()
        found.append(estimate(operator, seed))
        seconds.append(time.perf_counter() - start)
    twin = Operator((len(exact), len(exact)), 1, lambda v: v * exact, lambda u: u * exact, torch.float64)
    reached = statistics.mean(estimate(twin, seed)[0] <= goal for seed in range(200))
    errors, bounds = (", ".join(f"{100 * one[i]:.2f} %" for one in found) for i in (0, 1))
    print(
        f"| {what} | {errors}; {reached:.0%} of 200 seeds within {goal:.0%} "
        f"| {bounds} | {statistics.median(seconds):.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
