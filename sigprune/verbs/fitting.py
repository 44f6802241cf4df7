"""Fitting images to the input that a model takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from sigprune.base.errors import DataError
from sigprune.values.view import View


@dataclass(frozen=True, eq=False)
class Fitted:
    """Images in the shape of the view's main input, made when they are asked for.

    A data set that was upsampled as a whole could take more memory than there is.

    Attributes:
        images: (examples, channels, height, width), floating point.
        view: its example says how many channels and which size; a fully connected network takes the flattened
            image.
        size: height and width in pixels that replace the example's; for networks that take any size.
    """

    images: Tensor
    view: View
    size: int | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Some of the images, fitted.

        Raises:
            DataError: the model takes no images, or another number of inputs.
        """
        view, images, size = self.view, self.images[rows], self.size
        if view.embed is not None or view.input_name not in view.example.inputs:
            takes = ", ".join(view.example.inputs)
            raise DataError(
                f"the data set holds images, but {view.architecture} takes {takes}; recipes have no other "
                "data yet: prune such models from Python, with batches of your own or a data-free score, or "
                "a trained checkpoint by magnitude with `sigprune prune --by-shard`"
            )
        channels, *own = view.example.inputs[view.input_name].shape[1:]
        if len(own) == 2:
            return fit_images(images, channels, (size, size) if size else (own[0], own[1]))
        if own:
            takes = " x ".join(str(side) for side in (channels, *own))
            raise DataError(f"the data set holds images, but {view.architecture} takes inputs of {takes}")
        flat = (images if size is None else fit_images(images, images.shape[1], (size, size))).flatten(1)
        if flat.shape[1] != channels:
            raise DataError(
                f"the model takes {channels} numbers, an image has {flat.shape[1]}; set data.size"
            )
        return flat


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


def fit_images(images: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """Images in the shape that a model takes.

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
