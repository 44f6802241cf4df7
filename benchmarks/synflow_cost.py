"""What synaptic flow in rounds costs, next to as many forward and backward passes of the same input.

After every round of one ``prune`` comes one plain pass, not counted into its time: both sides see the
same moods of the machine. Ratios of the sums over all rounds, in which dear first rounds count, and of the
medians, in which other work on the machine does not.

python benchmarks/synflow_cost.py --model resnet50 --rounds 100 --repeats 3
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from dataclasses import dataclass, field

import torch

from sigprune.base.registry import MemberSpec
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe, open_model
from sigprune.pruning.choose import Method, choose_mask
from sigprune.values.view import View


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet50", help="a timm architecture")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    view = describe(open_model(f"timm:{arguments.model}"))
    reinit_(view)
    twin = copy.deepcopy(view.module).double().eval()
    inputs = torch.ones_like(next(iter(view.example.inputs.values())), dtype=torch.float64)
    print(f"{arguments.model}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for _ in range(3):
        one_pass(twin, inputs)
    found = []
    for _ in range(arguments.repeats):
        clock = Clock(twin, inputs)
        prune_in_rounds(view, arguments, clock)
        both = [(sum(seconds), statistics.median(seconds)) for seconds in (clock.rounds, clock.passes)]
        found.append([a / b for a, b in zip(*both, strict=True)])
        for name, (whole, each) in zip(("rounds of synflow", "passes in float64"), both, strict=True):
            print(f"{arguments.rounds} {name}: {whole:.1f} s, median {each:.3f} s")
        print("ratio of the sums {:.3f}, of the medians {:.3f}".format(*found[-1]), flush=True)
    sums, medians = (statistics.median(values) for values in zip(*found, strict=True))
    print(f"over the repeats: sums {sums:.3f}, medians {medians:.3f} (target: at most 1.15)")


@dataclass
class Clock:
    """Seconds of the rounds, and of the plain passes between them."""

    twin: torch.nn.Module
    inputs: torch.Tensor
    rounds: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    def __call__(self, _done: int, _total: int) -> None:
        """At the end of each round."""
        self.rounds.append(time.perf_counter() - self.start)
        self.passes.append(one_pass(self.twin, self.inputs))
        self.start = time.perf_counter()


def prune_in_rounds(view: View, arguments: argparse.Namespace, clock: Clock) -> None:
    method = Method("synflow", schedule=MemberSpec("exponential", {"rounds": arguments.rounds}))
    choose_mask(view, arguments.sparsity, method, None, seed=0, on_progress=clock)


def one_pass(module: torch.nn.Module, inputs: torch.Tensor) -> float:
    start = time.perf_counter()
    module(inputs).sum().backward()
    module.zero_grad(set_to_none=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
