"""How much of the images is left when they are shrunk."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate

from sigprune.values.finding import Finding

LEAST = 0.1
"""Share of the variance of the pixels; with less, what distinguishes the images is gone."""
_LOOKED_AT = 64


def detail_kept(images: Tensor, size: tuple[int, int]) -> float:
    """The share of the variance of the pixels that survives shrinking: R² of the image enlarged again.

    Args:
        images: (examples, channels, height, width), floating point.
        size: height and width in pixels that they are shrunk to.

    Returns:
        At most 1 (nothing is lost); 0 or below: no more than one grey for all images. Cost: a few small
        interpolations.
    """
    height, width = images.shape[-2:]
    smaller = min(height, size[0]), min(width, size[1])
    if smaller == (height, width):
        return 1.0
    small = interpolate(images, smaller, mode="bilinear", align_corners=False, antialias=True)
    again = interpolate(small, (height, width), mode="bilinear", align_corners=False)
    variance = (images - images.mean((0, 2, 3), keepdim=True)).square().mean()
    return float(1 - (images - again).square().mean() / variance.clamp_min(1e-30))


def detail_finding(images: Tensor, size: tuple[int, ...]) -> list[Finding]:
    """A warning if little of the images is left at the size that the model gets; empty otherwise.

    Args:
        images: (examples, channels, height, width), floating point.
        size: height and width of what the model gets; empty where it gets them flattened.
    """
    if len(size) != 2:
        return []
    kept = detail_kept(images[:_LOOKED_AT], size)
    if kept >= LEAST:
        return []
    given, got = (" x ".join(map(str, side)) for side in (images.shape[-2:], size))
    where = f"images of {given} pixels shrunk to {got}"
    remedy = "too little to learn from: leave out the size (data.size), or take a model of larger images"
    return [Finding("image_detail", where, kept, LEAST, 1.0, remedy=remedy)]
