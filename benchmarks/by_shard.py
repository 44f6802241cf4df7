"""Pruning a checkpoint file by file: peak memory over the largest file, and time.

python benchmarks/by_shard.py            # 355 M parameters in eight files, a minute
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from pathlib import Path

import torch
from memory import highest

from sigprune import open_model
from sigprune.checkpoint.dense_reader import dense_checkpoint
from sigprune.checkpoint.prune_shards import prune_files
from sigprune.pruning.choose import Method

METHODS = {
    "magnitude": (0.9, Method("magnitude", "pooled")),
    "random": (0.9, Method("random")),
    "magnitude, per row": (0.9, Method("magnitude", "uniform", "per_row")),
    "magnitude, 2:4": (0.5, Method("magnitude", "uniform", "n_m")),
}
SIZES = {"n_layer": 24, "n_embd": 1024, "n_head": 16, "task": "causal-lm"}


def main() -> None:
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| method | kept | seconds | largest file, MB | peak beside the start, MB | ratio |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "model"
        in_its_own_process(write, folder)
        for name in METHODS:
            kept, seconds, largest, peak = in_its_own_process(measured, folder, name)
            print(
                f"| {name} | {kept:,} | {seconds:.1f} | {largest / 1e6:.0f} | {peak / 1e6:.0f} | "
                f"**{peak / largest:.2f}** |"
            )


def in_its_own_process(act, *arguments):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(act, arguments)


def write(folder: Path) -> None:
    open_model("transformers:gpt2", args=SIZES).save_pretrained(folder, max_shard_size="200MB")


def measured(folder: Path, name: str) -> tuple[int, float, int, int]:
    sparsity, method = METHODS[name]
    largest = dense_checkpoint(folder).largest
    before, start = highest(reset=True), time.perf_counter()
    written = prune_files(folder, folder.parent / name, sparsity=sparsity, method=method)
    return written.kept, time.perf_counter() - start, largest, highest() - before


if __name__ == "__main__":
    main()
