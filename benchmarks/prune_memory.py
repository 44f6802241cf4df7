"""What ``prune`` holds at its peak beside the model, in copies of the prunable weights.

A fresh process for every case; the peak of its resident memory above what it had when the model was made. A
boolean mask of float32 weights is a quarter of a copy.

python benchmarks/prune_memory.py --model vit_base_patch16_224
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import warnings
from pathlib import Path

import torch

from sigprune.base.registry import MemberSpec
from sigprune.base.tensors import count
from sigprune.models.opening import describe, open_model
from sigprune.pruning.choose import prune

PATTERNS = {
    "unstructured": MemberSpec("unstructured", {}),
    "per_row": MemberSpec("per_row", {}),
    "n_m": MemberSpec("n_m", {}),
    "block": MemberSpec("block", {"rows": 16, "columns": 1}),
    "block 32x32": MemberSpec("block", {"rows": 32, "columns": 32}),
    "channel": MemberSpec("channel", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_base_patch16_224", help="a timm architecture")
    parser.add_argument("--scores", nargs="+", default=["magnitude"])
    parser.add_argument("--patterns", nargs="+", default=list(PATTERNS), choices=list(PATTERNS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", action="store_true", help="internal: one measurement")
    arguments = parser.parse_args()
    if arguments.only:
        print(copies(arguments.model, arguments.scores[0], arguments.patterns[0]))
        return
    print(f"{arguments.model}, sparsity 0.5, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| score | pattern | peak, in copies of the weights |\n|---|---|---|")
    for score in arguments.scores:
        for pattern in arguments.patterns:
            command = [sys.executable, str(Path(__file__)), "--only", "--model", arguments.model]
            command += ["--scores", score, "--patterns", pattern]
            runs = [
                float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
                for _ in range(arguments.repeats)
            ]
            print(f"| {score} | {pattern} | {statistics.median(runs):.2f} |", flush=True)


def copies(model: str, score: str, pattern: str) -> float:
    """The peak of this process (Linux) while it prunes, above what it holds before."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    # multiples of four inputs, and no classifier: what every pattern takes
    view = describe(open_model(f"timm:{model}")).select(exclude=("head", "first"))
    batches = [
        (torch.randn(1, *view.example.inputs[view.input_name].shape[1:]), torch.zeros(1, dtype=torch.long))
    ]
    small = describe(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)))
    small = small.select(exclude=("head",))
    how = {"pattern": PATTERNS[pattern], "allocation": "uniform" if pattern == "n_m" else "pooled"}
    prune(small, sparsity=0.5, score="magnitude", **how)  # what is imported and made once does not count
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = status("VmRSS")
    prune(view, sparsity=0.5, score=score, batches=batches, **how)
    weights = {name: p for name, p in view.params().items() if name in view.prunable}
    return (status("VmHWM") - before) / (count(weights) * 4)


def status(field: str) -> int:
    """Bytes, as Linux tells them."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in text.splitlines() if line.startswith(f"{field}:")).split()[1]) * 1024


if __name__ == "__main__":
    main()
