"""Packed files: their size against the entropy of what they hold, and how fast they load.

python benchmarks/codecs.py                  # one thread, medians of 5; about ten minutes
python benchmarks/codecs.py --model resnet50 --dtype bfloat16
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import timm
import torch
from memory import highest
from safetensors.torch import load_file
from torch import Tensor

from sigprune import Mask, View, apply_, describe, load, open_model, prune, reinit_, save
from sigprune.checkpoint.read import unpacked
from sigprune.families.codecs import Codec, codecs
from sigprune.format.index import read_manifests
from sigprune.format.names import DENSE, PACKED

MODELS = ("resnet50", "vit_base_patch16_224")
MASKS = ("snip", "random")
SPARSITIES = (0.9, 0.95)
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--dtype", choices=DTYPES, action="append")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"1 thread, torch {torch.__version__}, medians of {arguments.repeats}\n")
    print(
        "| model | dtype | mask | bits per entry: bound | compact | of bound | bitmask | compact of bitmask |"
    )
    print("|---|---|---|---|---|---|---|---|")
    speeds = []
    for model, kind, sparsity in itertools.product(arguments.model or MODELS, MASKS, SPARSITIES):
        view, mask = pruned(model, kind, sparsity)
        for dtype in arguments.dtype or DTYPES:
            view.module.to(DTYPES[dtype])
            label = f"{model} | {dtype} | {kind} {sparsity}"
            with tempfile.TemporaryDirectory() as folder:
                speeds.append((label, *measured(view, mask, Path(folder), label, arguments.repeats)))
    print(
        "\n| model | dtype | mask | codec | decode, GB/s | model, of dense | tensors, of copy | peak beside |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for label, rows in speeds:
        for codec, speed, whole, tensors, beside in rows:
            print(f"| {label} | {codec} | {speed:.2f} | {whole:.2f} | {tensors:.2f} | {beside:.2f} |")


def pruned(model: str, kind: str, sparsity: float) -> tuple[View, Mask]:
    """Orthogonal weights under a mask."""
    view = describe(open_model(f"timm:{model}"))
    reinit_(view, "orthogonal", seed=0)
    if kind == "snip":
        stream = torch.Generator().manual_seed(0)
        images = torch.randn(4, 3, 224, 224, generator=stream)
        batches = [(images, torch.randint(1000, (4,), generator=stream))]
        mask = prune(view, sparsity=sparsity, score="snip", batches=batches)
    else:
        mask = prune(view, sparsity=sparsity, score="random", allocation="erk")
    apply_(view, mask)
    return view, mask


def measured(
    view: View, mask: Mask, home: Path, label: str, repeats: int
) -> tuple[list[tuple[str, float, float, float, float]]]:
    """Prints the sizes; the speeds of both codecs."""
    params = view.params()
    bound = sum(entropy(params[name], keep) for name, keep in mask.keep.items())
    sizes, rows = {}, []
    for codec in ("bitmask", "compact"):
        save(home / codec, view, mask, codec=codec)
        sizes[codec] = 8 * parts_size(home / codec)
    total = mask.total
    print(
        f"| {label} | {bound / total:.3f} | {sizes['compact'] / total:.3f} | "
        f"**{sizes['compact'] / bound:.3f}** | {sizes['bitmask'] / total:.3f} | "
        f"{sizes['compact'] / sizes['bitmask']:.3f} |",
        flush=True,
    )
    dense = {name: params[name].detach() for name in mask.keep}
    size = sum(t.numel() * t.element_size() for t in dense.values())
    for codec in ("bitmask", "compact"):
        member = codecs.get(codec)
        parts = {name: member.encode(t, mask.keep[name]) for name, t in dense.items()}
        counts = {name: int(keep.sum()) for name, keep in mask.keep.items()}

        jobs = [(parts[name], tuple(t.shape), t.dtype, counts[name]) for name, t in dense.items()]
        seconds = median(partial(decode_all, member, jobs), repeats)
        shards = read_manifests(home / codec)
        both = [
            (timed(partial(load_all, home / codec, shards)), timed(partial(copy_all, home / codec / DENSE)))
            for _ in range(repeats + 1)
        ][1:]
        whole = [
            (timed(partial(load, home / codec)), timed(partial(load_dense, home / codec)))
            for _ in range(repeats + 1)
        ][1:]
        ratios = [statistics.median(packed / plain for packed, plain in pairs) for pairs in (whole, both)]
        rows.append((codec, size / seconds / 1e9, *ratios, apart(home / codec)))
    return (rows,)


def decode_all(member: Codec, jobs: list[tuple]) -> None:
    for job in jobs:
        member.decode(*job)


def load_dense(folder: Path) -> torch.nn.Module:
    """What a user of timm does."""
    return timm.create_model(f"local-dir:{folder}", pretrained=True)


def load_all(folder: Path, shards: dict) -> list[Tensor]:
    return [tensor for _, tensor, _ in unpacked(folder, shards)]


def copy_all(path: Path) -> list[Tensor]:
    return [tensor.clone() for tensor in load_file(path).values()]


def parts_size(folder: Path) -> int:
    """Bytes of what masked tensors are stored as."""
    total = 0
    manifest = next(iter(read_manifests(folder).values()))
    tensors = load_file(folder / PACKED)
    for name, entry in manifest.tensors.items():
        if entry.masked is not None:
            total += sum(tensors[name + suffix].numel() for suffix in entry.masked.parts)
    return total


def entropy(tensor: Tensor, keep: Tensor) -> float:
    """Bits: positions given the density, the empirical entropy of the exponent, sign and mantissa."""
    n, kept = keep.numel(), int(keep.sum())
    p = kept / n
    positions = 0.0 if p in {0.0, 1.0} else -n * (p * math.log2(p) + (1 - p) * math.log2(1 - p))
    if not kept:
        return positions
    width = 8 * tensor.element_size()
    kind = {16: torch.int16, 32: torch.int32}[width]
    bits = tensor.detach()[keep].view(kind).to(torch.int64) & (2**width - 1)
    exponent = bits >> (width - 9) & 255
    share = torch.bincount(exponent).double() / kept
    share = share[share > 0]
    return positions + kept * (float(-(share * share.log2()).sum()) + width - 8)


def median(act: Callable[[], object], repeats: int) -> float:
    act()
    return statistics.median(timed(act) for _ in range(repeats))


def timed(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def apart(folder: Path) -> float:
    """Peak memory of loading beside the dense tensors and their masks, in dense tensors."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak, (folder,))


def peak(folder: Path) -> float:
    torch.set_num_threads(1)
    shards = read_manifests(folder)
    before = highest(reset=True)
    found = [(tensor, keep) for _, tensor, keep in unpacked(folder, shards)]
    after = highest()
    dense = sum(t.numel() * t.element_size() for t, _ in found)
    masks = sum(keep.numel() for _, keep in found if keep is not None)
    return (after - before - masks) / dense


if __name__ == "__main__":
    main()
