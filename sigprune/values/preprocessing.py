"""Preprocessing: how an image file becomes the input of a model (imports no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Resizer = Literal["pillow", "torch"]
"""Who resizes 8-bit images. Both interpolate bilinearly with antialiasing and round to 8 bits; for some
sizes a few pixels differ by one. timm's transforms call Pillow, transformers' processors torch."""


@dataclass(frozen=True)
class Normalisation:
    """A pixel in [0, 1] becomes (pixel - mean) / std.

    Attributes:
        mean: one per channel.
        std: one per channel, positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def repeated(self, channels: int) -> Normalisation:
        """That of a single channel for each of several; of several channels as it is."""
        if len(self.mean) != 1:
            return self
        return Normalisation(self.mean * channels, self.std * channels)


@dataclass(frozen=True)
class ImageDefaults:
    """What a library does with image files unless it is told otherwise.

    Attributes:
        resizer: who resizes them.
        normalisation: the one that pretrained weights were trained with; None where nothing says it.
    """

    resizer: Resizer
    normalisation: Normalisation | None = None


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes the input of a model, and what its outputs mean.

    The whole image is resized to ``size`` (bilinear, antialiased, 8 bits, the aspect ratio is not kept; no
    crop), scaled to [0, 1], then normalised.

    Attributes:
        size: height and width in pixels.
        normalisation: one mean and deviation per channel that the model takes.
        labels: name of each output, in order; unique.
    """

    size: tuple[int, int]
    normalisation: Normalisation
    labels: tuple[str, ...]

    @property
    def channels(self) -> int:
        """Channels that the model takes: 1 is a greyscale image (Pillow's ``L``), 3 a colour image."""
        return len(self.normalisation.mean)


def output_labels(classes: tuple[str, ...], outputs: int) -> tuple[str, ...]:
    """A name for every output of a model: those of the classes, then ``unused N``.

    Equal class names are told apart by their number, since libraries look numbers up by name.

    Args:
        classes: names in label order, at most as many as there are outputs.
        outputs: how many outputs the model has.

    Example:
        >>> output_labels(("cat", "dog", "cat"), 4)
        ('cat', 'dog', 'cat (2)', 'unused 3')
    """
    named: list[str] = []
    for number in range(outputs):
        name = classes[number] if number < len(classes) else f"unused {number}"
        while name in named:
            name = f"{name} ({number})"
        named.append(name)
    return tuple(named)
