"""What a pruning score costs, next to the training that it comes before.

Time: the whole of ``prune`` (score pass and choice of the mask) over one plain forward and backward pass of
the same batch, taken in turns in one process; the median of the repeats and, because a busy machine only ever
adds time, the fastest. Memory: the peak of the process above its peak when the model was made, over that of
one plain training step (SGD with momentum); a fresh process for every measurement.

    python benchmarks/score_cost.py --model resnet50 --batch 16 --size 224
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe, open_model
from sigprune.pruning.choose import prune
from sigprune.values.view import View

TARGET = 1.10


def main() -> None:
    arguments = _arguments()
    if arguments.only:
        print(json.dumps({"bytes": peak(arguments.only, arguments)}))
        return
    result = {
        "model": arguments.model,
        "score": arguments.score,
        "batch": arguments.batch,
        "size": arguments.size,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "seconds": seconds(arguments),
        "bytes": {name: peak_of_a_fresh_process(name, arguments) for name in ("prune", "training step")},
    }
    print(json.dumps(result, indent=1) if arguments.json else table(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet50", help="a timm architecture")
    parser.add_argument("--score", default="snip")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=["prune", "training step"], help="internal: one memory measurement")
    return parser.parse_args()


def network(arguments: argparse.Namespace) -> tuple[View, tuple[Tensor, Tensor]]:
    """The model as a run would score it (orthogonal weights, gates open), and one batch of noise."""
    module = open_model(f"timm:{arguments.model}")
    view = describe(module, example=torch.zeros(1, 3, arguments.size, arguments.size))
    if not arguments.only:  # values do not change the memory, and QR has a peak of its own
        reinit_(view)
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size, generator=draw)
    return view, (images, torch.randint(1000, (arguments.batch,), generator=draw))


def score_and_choose(view: View, batch: tuple[Tensor, Tensor], arguments: argparse.Namespace) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without re-initialisation, closed gates are announced
        prune(view, sparsity=arguments.sparsity, score=arguments.score, batches=[batch])


def forward_backward(module: nn.Module, batch: tuple[Tensor, Tensor], *, training: bool) -> None:
    module.train(training)
    nn.functional.cross_entropy(module(batch[0]), batch[1]).backward()
    module.zero_grad(set_to_none=True)
    module.eval()


def training_step(module: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """The second step, when the optimizer has its state; a plain loop without any of sigprune."""
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(batch[0]), batch[1]).backward()
        optimizer.step()


def seconds(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Rounds in which every candidate takes its turn; the first round warms up and is not counted."""
    view, batch = network(arguments)
    candidates: dict[str, Callable[[], None]] = {
        "prune": lambda: score_and_choose(view, batch, arguments),
        "forward + backward, training mode": lambda: forward_backward(view.module, batch, training=True),
        "forward + backward, evaluation mode": lambda: forward_backward(view.module, batch, training=False),
    }
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(arguments.repeats + 1):
        for name, act in candidates.items():
            start = time.perf_counter()
            act()
            taken[name].append(time.perf_counter() - start)
    return {
        name: {"median": statistics.median(values[1:]), "fastest": min(values[1:])}
        for name, values in taken.items()
    }


def peak(name: str, arguments: argparse.Namespace) -> int:
    """Bytes of this process at its peak, above its peak when the model and the batch were made."""
    view, batch = network(arguments)
    before = _high_water()
    if name == "prune":
        score_and_choose(view, batch, arguments)
    else:
        training_step(view.module, batch)
    used = _high_water() - before
    if used <= 0:
        raise SystemExit("too small to measure: take a larger model, batch or size")
    return used


def _high_water() -> int:
    """Bytes; on Linux not ``ru_maxrss``, which a new process takes over from the one that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text(encoding="ascii").splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_of_a_fresh_process(name: str, arguments: argparse.Namespace) -> int:
    command = [sys.executable, str(Path(__file__)), "--only", name]
    for option in ("model", "score", "batch", "size", "sparsity"):
        command += [f"--{option}", str(getattr(arguments, option))]
    runs = [subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    return int(statistics.median(json.loads(run.stdout)["bytes"] for run in runs))


def table(result: dict) -> str:
    spent, peaks = result["seconds"], result["bytes"]
    rows = [
        (
            f"time, {kind}: `prune` over one {name}",
            f"{spent['prune'][kind]:.3f} s / {value:.3f} s",
            spent["prune"][kind] / value,
        )
        for kind in ("median", "fastest")
        for name, value in ((n, spent[n][kind]) for n in spent if n != "prune")
    ]
    rows.append((
        "peak memory: `prune` over one training step",
        f"{peaks['prune'] / 2**20:.0f} MiB / {peaks['training step'] / 2**20:.0f} MiB",
        peaks["prune"] / peaks["training step"],
    ))
    title = "{score} on {model}, batch {batch}, {size}x{size}, {threads} threads, torch {torch}".format(
        **result
    )
    lines = [title, "", f"| what | measured | ratio (target: at most {TARGET:.2f}) |", "|---|---|---|"]
    return "\n".join(lines + [f"| {what} | {measured} | {ratio:.2f} |" for what, measured, ratio in rows])


if __name__ == "__main__":
    main()
