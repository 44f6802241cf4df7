"""What synaptic flow in rounds costs, next to as many forward and backward passes of the same input.

python benchmarks/synflow_cost.py --model resnet50 --rounds 100
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch

from sigprune.base.family import Step
from sigprune.verbs.initialising import reinit_
from sigprune.verbs.opening import describe, open_model
from sigprune.verbs.pruning import prune


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet50", help="a timm architecture")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--sparsity", type=float, default=0.9)
    arguments = parser.parse_args()
    view = describe(open_model(f"timm:{arguments.model}"))
    reinit_(view)
    twin = copy.deepcopy(view.module).double().eval()
    inputs = torch.ones_like(next(iter(view.example.inputs.values())), dtype=torch.float64)
    passes = []
    for _ in range(2):  # half before, half after, on a machine that may change its speed
        passes += [one_pass(twin, inputs) for _ in range(1 + arguments.rounds // 2)][1:]
        if len(passes) < arguments.rounds // 2 + 1:
            start = time.perf_counter()
            schedule = Step("exponential", {"rounds": arguments.rounds})
            prune(view, sparsity=arguments.sparsity, score="synflow", schedule=schedule)
            whole = time.perf_counter() - start
    each = statistics.median(passes)
    print(f"{arguments.model}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{arguments.rounds} rounds of synflow: {whole:.1f} s, {whole / arguments.rounds:.3f} s each")
    print(f"forward and backward pass in float64, median: {each:.3f} s")
    print(f"ratio {whole / arguments.rounds / each:.2f} (target: at most 1.15)")


def one_pass(module: torch.nn.Module, inputs: torch.Tensor) -> float:
    start = time.perf_counter()
    module(inputs).sum().backward()
    module.zero_grad(set_to_none=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
