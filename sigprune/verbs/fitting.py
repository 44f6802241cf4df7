"""Fitting images to the input that a model takes."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

from sigprune.base.errors import DataError
from sigprune.values.view import View

_LIMIT = 8 * 2**30


def fit_to_view(images: Tensor, view: View, size: int | None = None) -> Tensor:
    """Images in the shape of the view's main input.

    Args:
        images: (examples, channels, height, width), floating point.
        view: its example says how many channels and which size; a fully connected network takes the
            flattened image.
        size: height and width in pixels that replace the example's; for networks that take any size.

    Raises:
        DataError: the model takes no images, or another number of inputs.
    """
    if view.embed is not None or view.input_name not in view.example.inputs:
        takes = ", ".join(view.example.inputs)
        raise DataError(f"the data set holds images, but {view.architecture} takes {takes}")
    channels, *own = view.example.inputs[view.input_name].shape[1:]
    if own:
        return fit_images(images, channels, (size, size) if size else (own[0], own[1]))
    flat = (images if size is None else fit_images(images, images.shape[1], (size, size))).flatten(1)
    if flat.shape[1] != channels:
        raise DataError(f"the model takes {channels} numbers, an image has {flat.shape[1]}; set data.size")
    return flat


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
        DataError: a change of channels that has no obvious meaning, or a result of more than 8 GiB.
    """
    given = images.shape[1]
    if channels != given and 1 not in {channels, given}:
        raise DataError(
            f"images: expected {channels} channels, got {given}; only 1 to n and n to 1 are fitted"
        )
    narrow = images.mean(dim=1, keepdim=True) if channels < given else images
    needed = narrow[:, :, 0, 0].numel() * math.prod(size) * narrow.element_size()
    if needed > _LIMIT:
        raise DataError(
            f"images: {len(images)} of size {size[0]}x{size[1]} need {needed / 2**30:.0f} GiB of memory "
            "(the limit is 8); use a smaller image size (recipe: data.size)"
        )
    if tuple(narrow.shape[-2:]) != tuple(size):
        narrow = functional.interpolate(narrow, size, mode="bilinear", align_corners=False, antialias=True)
    return narrow.expand(-1, channels, -1, -1)
