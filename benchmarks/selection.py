"""Exact selection: the threshold of the best tenth of many scores, next to ``torch.kthvalue``.

python benchmarks/selection.py            # 1e8 scores
python benchmarks/selection.py --huge     # also 2^31 + 2^20 of them, whose threshold is known (9 GB)
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time

import torch
from torch import Tensor

from sigprune.values.ranking import threshold

COUNT = 10**8
DENSITY = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--huge", action="store_true")
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, medians of {arguments.repeats}\n")
    rows = {name: apart(name, arguments.repeats) for name in ("kthvalue", "threshold")}
    size = COUNT * 4 / 2**20
    print(
        "| what | seconds | of kthvalue | peak memory beside, of the scores | value |\n|---|---|---|---|---|"
    )
    for name, (seconds, beside, value) in rows.items():
        ratio = seconds / rows["kthvalue"][0]
        print(f"| {name} | {seconds:.2f} | {ratio:.2f} | {beside / size:.2f} | {value} |")
    if arguments.huge:
        huge()


def apart(name: str, repeats: int) -> tuple[float, float, float]:
    """Median seconds, peak MiB above the scores, and the value, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (name, repeats))


def measured(name: str, repeats: int) -> tuple[float, float, float]:
    scores = torch.rand(COUNT, generator=torch.Generator().manual_seed(0))
    kept = round(COUNT * DENSITY)
    select(name, scores[:1000], 100)
    before, seconds = peak(), []
    for _ in range(repeats):
        start = time.perf_counter()
        value = select(name, scores, kept)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), peak() - before, value


def select(name: str, scores: Tensor, kept: int) -> float:
    if name == "kthvalue":
        return float(scores.kthvalue(len(scores) - kept + 1).values)
    return float(threshold([scores], kept)[0])


def peak() -> float:
    """Highest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def huge() -> None:
    """More entries than 32 bits count, 1000 different values: how many belong to the best tenth is known."""
    parts = [
        torch.arange(2**20).remainder_(1000).float().repeat(1024),
        torch.arange(2**20).remainder_(1000).float(),
    ]
    parts = [parts[0], parts[0].clone(), parts[1]]
    total = sum(len(part) for part in parts)
    each = torch.bincount(parts[2].long(), minlength=1000) * (2 * 1024 + 1)  # of every value
    kept = round(total * DENSITY)
    start = time.perf_counter()
    limit, larger, _ = threshold(parts, kept)
    seconds = time.perf_counter() - start
    above = int(each[int(limit) + 1 :].sum())
    right = above < kept <= above + int(each[int(limit)]) and sum(larger) == above
    print(f"\n{total:,} scores: threshold {limit.item()} in {seconds:.1f} s, {'right' if right else 'WRONG'}")


if __name__ == "__main__":
    main()
