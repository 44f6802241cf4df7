"""Gaussian images with random labels: for measuring, for data-free scoring, and for trying things out."""

from __future__ import annotations

import torch

from sigprune.base.errors import DataError
from sigprune.base.registry import Count
from sigprune.base.rng import generator
from sigprune.families.datasets import Data
from sigprune.families.datasets._shared import standardise

PAPER = "none: there is nothing to learn in it"


def load(*, examples: Count = 256, channels: Count = 3, size: Count = 32, classes: Count = 10) -> Data:
    """Independent standard normal pixels (channels, size, size), labels uniform; no test split.

    Args:
        examples: number of images.
        channels: number of channels.
        size: height and width in pixels.
        classes: number of classes.

    Raises:
        DataError: a number below one.
    """
    for name, value in {"examples": examples, "channels": channels, "size": size, "classes": classes}.items():
        if value < 1:
            raise DataError(f"noise.{name}: expected at least 1, got {value}")
    images = torch.randn(examples, channels, size, size, generator=generator(0, "noise", "images"))
    labels = torch.randint(classes, (examples,), generator=generator(0, "noise", "labels"))
    names = tuple(str(c) for c in range(classes))
    source = f"Gaussian noise, {channels}x{size}x{size}, random labels ({examples} images)"
    return Data((standardise(images)[0], labels), None, names, source)
