"""Fitting images to the input that a model takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from sigprune.base.errors import DataError
from sigprune.values.preprocessing import Normalisation, Resizer
from sigprune.values.view import View

_KEPT = 2**26
"""Bytes of resized images that are kept, not made again in every epoch."""


@dataclass(frozen=True)
class PixelRule:
    """How 8-bit images are fitted, so that the library's own transform does the same to an image file.

    Attributes:
        given: what the data set was standardised with, one number per channel of its images.
        wanted: what the model's input is to be normalised with, one number per channel of the input.
        resizer: who resizes them.
    """

    given: Normalisation
    wanted: Normalisation
    resizer: Resizer = "pillow"


@dataclass(frozen=True, eq=False)
class Fitted:
    """Images in the shape of the view's main input, made when they are asked for.

    A data set that was upsampled as a whole could take more memory than there is.

    Attributes:
        images: (examples, channels, height, width), floating point.
        view: its example says how many channels and which size; a fully connected network takes the flattened
            image.
        size: height and width in pixels that replace the example's; for networks that take any size.
        pixels: how 8-bit images are fitted; None: they are none, and interpolated as numbers.
    """

    images: Tensor
    view: View
    size: int | None = None
    pixels: PixelRule | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Some of the images, fitted.

        Raises:
            DataError: the model takes no images, or another number of inputs.
        """
        channels, size = input_shape(self.view, self.images, self.size)
        images = self._fitted(rows, channels, size)
        return images if self._is_spatial else images.flatten(1)

    @property
    def _is_spatial(self) -> bool:
        return len(self.view.example.inputs[self.view.input_name].shape) == 4

    def _fitted(self, rows: Tensor | slice, channels: int, size: tuple[int, int]) -> Tensor:
        rule = self.pixels
        if rule is None:
            return fit_images(self.images[rows], channels, size)
        if tuple(self.images.shape[-2:]) == size and rule.wanted == rule.given.repeated(channels):
            return self.images[rows].expand(-1, channels, -1, -1)
        keep = len(self.images) * self.images.shape[1] * math.prod(size) <= _KEPT
        eight_bit = self._resized[rows] if keep else self._eight_bit(self.images[rows], channels, size)
        return normalise(eight_bit, rule.wanted)

    @cached_property
    def _resized(self) -> Tensor:
        return self._eight_bit(self.images, *input_shape(self.view, self.images, self.size))

    def _eight_bit(self, images: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
        assert self.pixels is not None
        return resized(
            with_channels(to_pixels(images, self.pixels.given), channels), size, self.pixels.resizer
        )


@dataclass(frozen=True, eq=False)
class Batches:
    """Labelled batches that are fitted one by one, as often as they are read."""

    inputs: Fitted
    labels: Tensor
    size: int

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.labels), self.size):
            rows = slice(start, start + self.size)
            yield self.inputs[rows], self.labels[rows]


def input_shape(view: View, images: Tensor, size: int | None) -> tuple[int, tuple[int, int]]:
    """Channels and size that images must have for a model.

    Args:
        view: its example says so; a fully connected network takes as many numbers as an image has.
        images: (examples, channels, height, width).
        size: height and width in pixels that replace the example's.

    Raises:
        DataError: the model takes no images, or another number of inputs.
    """
    if view.embed is not None or view.input_name not in view.example.inputs:
        takes = ", ".join(view.example.inputs)
        raise DataError(
            f"the data set holds images, but {view.architecture} takes {takes}; recipes have no other "
            "data yet: prune such models from Python, with batches of your own or a data-free score, or "
            "a trained checkpoint by magnitude with `sigprune prune --by-shard`"
        )
    channels, *own = view.example.inputs[view.input_name].shape[1:]
    if len(own) == 2:
        return channels, (size, size) if size else (own[0], own[1])
    if own:
        takes = " x ".join(str(side) for side in (channels, *own))
        raise DataError(f"the data set holds images, but {view.architecture} takes inputs of {takes}")
    given, height, width = images.shape[1:]
    height, width = (size, size) if size else (height, width)
    if given * height * width != channels:
        raise DataError(
            f"the model takes {channels} numbers, an image has {given * height * width}; set data.size"
        )
    return given, (height, width)


def to_pixels(images: Tensor, given: Normalisation) -> Tensor:
    """The 8-bit images that standardised ones were made from, exactly: uint8, same shape."""
    mean, std = _columns(given)
    return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def statistics(images: Tensor) -> Normalisation:
    """Mean and standard deviation of uint8 images (examples, channels, height, width) on the scale [0, 1]."""
    pixels = images.to(torch.float64) / 255
    std, mean = torch.std_mean(pixels, dim=(0, 2, 3), correction=0)
    return Normalisation(tuple(mean.tolist()), tuple(std.tolist()))


def with_channels(images: Tensor, channels: int) -> Tensor:
    """Colour as grey where one channel is wanted, as Pillow's ``convert("L")`` computes it; else as they are.

    Args:
        images: uint8 (examples, channels, height, width).
        channels: channels wanted. One channel stays one: :func:`normalise` repeats it.

    Raises:
        DataError: a change of channels that an image file does not know.
    """
    given = images.shape[1]
    if given in {1, channels}:
        return images
    if (given, channels) != (3, 1):
        raise DataError(
            f"images: expected {channels} channels, got {given}; only 1 to n and 3 to 1 are fitted"
        )
    # ITU-R 601 luma in 16-bit fixed point
    shares = torch.tensor([19595, 38470, 7471], dtype=torch.int32)[:, None, None]
    return ((images.to(torch.int32) * shares).sum(dim=1, keepdim=True) + 0x8000 >> 16).to(torch.uint8)


def resized(images: Tensor, size: tuple[int, int], resizer: Resizer) -> Tensor:
    """8-bit images in another size: bilinear, antialiased, rounded to 8 bits, aspect ratio not kept.

    Args:
        images: uint8 (examples, channels, height, width); channels are resized one by one.
        size: height and width wanted.
        resizer: ``pillow``: some 0.1 ms for each channel of an image; ``torch``: several times as fast.
    """
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    if resizer == "torch":
        return functional.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
    import numpy as np
    from PIL import Image

    planes = images.reshape(-1, *images.shape[-2:]).numpy()
    height, width = size
    made = np.empty((len(planes), height, width), dtype=np.uint8)
    for number, plane in enumerate(planes):
        made[number] = np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
    return torch.from_numpy(made).reshape(*images.shape[:2], height, width)


def normalise(images: Tensor, wanted: Normalisation) -> Tensor:
    """Float32 inputs of 8-bit images, as the transforms of timm compute them.

    Args:
        images: uint8 (examples, channels, height, width); one channel is repeated to as many as are wanted.
        wanted: one mean and deviation for each channel of the result.
    """
    mean, std = _columns(wanted)
    return images.to(torch.float32).div_(255).expand(-1, len(wanted.mean), -1, -1).sub(mean).div_(std)


def _columns(normalisation: Normalisation) -> tuple[Tensor, Tensor]:
    columns = torch.tensor([normalisation.mean, normalisation.std], dtype=torch.float32)[:, :, None, None]
    return columns[0], columns[1]


def fit_images(images: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """Images in the shape that a model takes, as numbers: of data that are no 8-bit images.

    One channel is repeated to any number (without a copy), any number is averaged to one; then bilinear
    interpolation, antialiased where the images shrink.

    Args:
        images: (examples, channels, height, width), floating point.
        channels: channels wanted.
        size: height and width wanted.

    Returns:
        (examples, channels, height, width) in the dtype of the images. It may share storage with them, and
        its channels with each other: do not write to it.

    Raises:
        DataError: a change of channels that has no obvious meaning.
    """
    given = images.shape[1]
    if channels != given and 1 not in {channels, given}:
        raise DataError(
            f"images: expected {channels} channels, got {given}; only 1 to n and n to 1 are fitted"
        )
    narrow = images.mean(dim=1, keepdim=True) if channels < given else images
    if tuple(narrow.shape[-2:]) != tuple(size):
        narrow = functional.interpolate(narrow, size, mode="bilinear", align_corners=False, antialias=True)
    return narrow.expand(-1, channels, -1, -1)
