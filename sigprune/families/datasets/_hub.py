"""Labelled images from the Hub, through the library ``datasets`` (the extra of that name)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sigprune.base.errors import DataError, one_line


def read_hub(
    repository: str, split: str, image: str = "image", label: str = "label"
) -> tuple[Tensor, Tensor]:
    """One split of a data set of the Hub; fetched once, then read from the local cache.

    ``HF_HUB_OFFLINE``, ``HF_ENDPOINT``, ``HF_TOKEN`` and ``HF_HOME`` hold as everywhere.

    Args:
        repository: its id, ``user/name``.
        split: ``train``, ``test``, ...
        image: the column of the images.
        label: the column of the integer labels.

    Returns:
        Bytes (examples, channels, height, width) and int64 labels (examples,).

    Raises:
        DataError: the library is not installed, the data cannot be fetched, or are not images of one size
            with integer labels.
    """
    try:
        from datasets import Image, load_dataset
    except ImportError as error:
        raise DataError(
            f"{repository} lies on the Hub, and reading it needs the library datasets ({one_line(error)}): "
            'pip install "sigprune[datasets]"'
        ) from error
    try:
        rows = load_dataset(repository, split=split).cast_column(image, Image())
        pictures = [np.asarray(picture) for picture in rows[image]]
        labels = torch.tensor(rows[label][:], dtype=torch.int64)
    except Exception as error:  # connection, cache, format and decoding errors of four libraries
        what = f"{repository}, split {split}"
        raise DataError(f"{what}: cannot be read from the Hub: {one_line(error)}") from error
    if len({p.shape for p in pictures}) != 1 or pictures[0].dtype != np.uint8:
        raise DataError(f"{repository}, split {split}: expected 8-bit images of one size, got several kinds")
    images = torch.from_numpy(np.stack(pictures))
    return (images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2)), labels
