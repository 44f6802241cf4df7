"""Reading IDX files, standardising images."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from sigprune.base.errors import DataError
from sigprune.values.preprocessing import Normalisation

_UNSIGNED_BYTE = 0x08


def standardise(train: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Float32 images with mean 0 and standard deviation 1 per channel over the train split.

    Args:
        train: images (examples, channels, height, width), any real dtype.
        others: further splits, standardised with the statistics of ``train``.

    Raises:
        DataError: a channel of the train split is constant.

    Source: the preprocessing of Lee et al. 2020, arXiv 1906.06307.
    """
    return _standardised(train, *others)[0]


def standardise_pixels(train: Tensor, *others: Tensor) -> tuple[tuple[Tensor, ...], Normalisation]:
    """As :func:`standardise`, of 8-bit images; also what was subtracted and divided by, on the scale [0, 1].

    Args:
        train: images uint8 (examples, channels, height, width).
        others: further splits.

    Raises:
        DataError: a channel of the train split is constant.
    """
    splits, mean, scale = _standardised(train, *others)
    return splits, Normalisation(tuple((mean / 255).tolist()), tuple((scale.double() / 255).tolist()))


def _standardised(train: Tensor, *others: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """The splits, and what was subtracted (float64) and divided by (float32), one number per channel."""
    mean = train.mean(dim=(0, 2, 3), dtype=torch.float64)
    splits = tuple((s - mean[:, None, None]).to(torch.float32) for s in (train, *others))
    scale = splits[0].square().mean(dim=(0, 2, 3), dtype=torch.float64).sqrt().to(torch.float32)
    if not bool((scale > 0).all()):
        raise DataError("images: a channel of the train split is constant, so it cannot be standardised")
    return tuple(s.div_(scale[:, None, None]) for s in splits), mean, scale


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The unsigned bytes of a gzipped IDX file, the format of MNIST.

    Args:
        path: a ``.gz`` file.
        dimensions: how many axes the file must have (3 for images, 1 for labels).

    Returns:
        A uint8 tensor.

    Raises:
        DataError: no such file, no gzip, no IDX of that many axes, truncated, or longer than it says.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected a whole gzip file; {error}") from error
    header = 4 * (1 + dimensions)
    if len(raw) < header:
        raise DataError(f"{path}: expected an IDX header of {header} bytes, got {len(raw)} bytes in all")
    magic, *shape = struct.unpack(f">{1 + dimensions}I", raw[:header])
    expected = _UNSIGNED_BYTE << 8 | dimensions
    if magic != expected:
        raise DataError(f"{path}: expected the IDX magic number {expected:#010x}, got {magic:#010x}")
    if len(raw) - header != math.prod(shape):
        raise DataError(
            f"{path}: its header says {shape}, so expected {math.prod(shape)} bytes, got {len(raw) - header}"
        )
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=header).reshape(shape)
