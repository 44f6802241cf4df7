"""How far, and how fast, each isometry brings a pruned network back.

Random masks (layer densities of ERK) on fresh orthogonal weights; the mean over layers of || B Bᵀ - I ||_F
before and after, and the seconds of ``restore_``. Layers with more rows than columns have a floor above zero.

    python benchmarks/isometry.py --model timm:resnet18
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import torch

from sigprune.families.isometries import isometries
from sigprune.values.orthogonality import floor
from sigprune.values.view import View
from sigprune.verbs.initialising import reinit_
from sigprune.verbs.isometry import restore_
from sigprune.verbs.opening import describe, open_model
from sigprune.verbs.pruning import prune


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="timm:test_resnet")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--methods", nargs="*", default=list(isometries.names()))
    arguments = parser.parse_args()
    view = describe(open_model(arguments.model))
    print(f"{arguments.model}, sparsity {arguments.sparsity}, floor {lowest(view):.3f}, ", end="")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| isometry | residual before | after | seconds |\n|---|---|---|---|")
    for method in arguments.methods:
        reinit_(view)
        mask = prune(view, sparsity=arguments.sparsity, score="random", allocation="erk")
        start = time.perf_counter()
        done = restore_(view, mask, method)
        seconds = time.perf_counter() - start
        print(f"| {method} | {done.score_before:.3f} | {done.score_after:.3f} | {seconds:.1f} |", flush=True)


def lowest(view: View) -> float:
    """The mean over layers of the smallest residual that blocks of their shapes can have."""
    floors = []
    for weight in view.weights:
        blocks = weight.layout.blocks(view.params()[weight.name])
        floors.append(statistics.mean(floor(b.shape[0], math.prod(b.shape[1:])) for b in blocks))
    return statistics.mean(floors)


if __name__ == "__main__":
    main()
