"""What isometry can mean for the layers that the paper's networks do not have, measured.

Kernels as maps of images (circular padding, in closed form), square, rectangular and depthwise; BatchNorm
with fresh statistics and with those of the batch; blocks of a vision transformer.

    python benchmarks/what_isometry_means.py
"""

from __future__ import annotations

import torch
from torch import nn

from sigprune import MemberSpec, calibrate_, describe, jacobian, layer_isometry, measure, open_model, reinit_
from sigprune.base.rng import generator
from sigprune.values.view import View


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}\n\n| kernel | init | of the matrix | of the map of 16x16 images |")
    print("|---|---|---|---|")
    kernels = {
        "3x3, 64 to 64": nn.Conv2d(64, 64, 3, padding=1, bias=False),
        "3x3, 64 to 32": nn.Conv2d(64, 32, 3, padding=1, bias=False),
        "1x1, 256 to 64": nn.Conv2d(256, 64, 1, bias=False),
        "7x7 depthwise, 64": nn.Conv2d(64, 64, 7, padding=3, groups=64, bias=False),
    }
    for title, layer in kernels.items():
        for init in ("orthogonal", "block_orthogonal", "delta_orthogonal", "kaiming"):
            kernel(title, layer, init)
    print(
        "\n| network | calibrated with | BatchNorm | mean | rms | min | max |\n|---|---|---|---|---|---|---|"
    )
    for mode in ("fresh", "batch"):
        batchnorm("resnet18", mode)
    print("\n| vit_small_patch16_224 | rms | largest |\n|---|---|---|")
    transformer()


def kernel(title: str, layer: nn.Module, init: str) -> None:
    """Smallest, mean and largest singular value of the matrix, and of the map."""
    view = describe(layer, example=torch.zeros(1, layer.in_channels, 16, 16))
    reinit_(view, init)
    (row,) = layer_isometry(view, view.example)
    cells = [" ".join(f"{value:.3g}" for value in (m.min, m.mean, m.max)) for m in (row.matrix, row.operator)]
    print(f"| {title} | {init} | {cells[0]} | {cells[1]} |", flush=True)


def images(view: View, count: int) -> torch.Tensor:
    shape = next(iter(view.example.inputs.values())).shape[1:]
    return torch.randn(count, *shape, generator=generator(0, "inputs", "images"))


def batchnorm(name: str, mode: str) -> None:
    """Both modes, calibrated with fresh statistics or not; those of a batch couple its examples."""
    view = describe(open_model(f"timm:{name}", args={"num_classes": 10}))
    reinit_(view, MemberSpec("orthogonal"))
    batch = nn.functional.interpolate(images(view, 8), (32, 32))
    shown = {way: view.using(way) for way in ("fresh", "batch")}
    if mode == "fresh":
        calibrate_(shown["fresh"], batch)
    for way, seen in shown.items():
        found = measure(jacobian(seen, batch, joint=way == "batch")).summary()
        rms = found.mean_square**0.5
        calibrated = "fresh statistics" if mode == "fresh" else "not at all"
        figures = " | ".join(f"{value:.3g}" for value in (found.mean, rms, found.min, found.max))
        print(f"| {name} | {calibrated} | {way} | {figures} |", flush=True)


def transformer() -> None:
    """Blocks (attention, LayerNorm, GELU, residual) as maps of tokens, at orthogonal weights of gain 1."""
    view = describe(open_model("timm:vit_small_patch16_224"))
    reinit_(view, MemberSpec("orthogonal"))
    batch = images(view, 1)
    for before, after in [("patch_embed", "blocks.0"), ("blocks.4", "blocks.5"), ("blocks.10", "blocks.11")]:
        operator = jacobian(view, batch, of=after, at=before)
        rms = measure(operator, MemberSpec("moments", {"probes": 16})).summary().mean_square ** 0.5
        largest = measure(operator, MemberSpec("lanczos", {"steps": 20})).summary().max
        print(f"| {before} to {after} | {rms:.3g} | {largest:.3g} |", flush=True)


if __name__ == "__main__":
    main()
