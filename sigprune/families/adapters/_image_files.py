"""Preprocessing in the words of the libraries that read it from a folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

from sigprune.base.canonical_json import read_object
from sigprune.base.errors import CheckpointError
from sigprune.base.registry import JsonValue
from sigprune.format.names import PROCESSOR
from sigprune.values.preprocessing import Normalisation, Preprocessing

"""What ``transformers.AutoImageProcessor`` reads."""

_BILINEAR = 2
"""Of ``PIL.Image.Resampling``."""


def data_config(preprocessing: Preprocessing) -> dict[str, JsonValue]:
    """What timm's ``pretrained_cfg`` says of it: the whole image, squashed."""
    mean, std = preprocessing.normalisation.mean, preprocessing.normalisation.std
    return {
        "input_size": [preprocessing.channels, *preprocessing.size],
        "interpolation": "bilinear",
        "mean": list(mean),
        "std": list(std),
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }


def write_processor(preprocessing: Preprocessing, folder: Path) -> None:
    """Write the ``preprocessor_config.json`` of transformers' plain processor: resize, rescale, normalise."""
    height, width = preprocessing.size
    config: dict[str, JsonValue] = {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": preprocessing.channels == 3,
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": _BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.normalisation.mean),
        "image_std": list(preprocessing.normalisation.std),
    }
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / PROCESSOR).write_text(text + "\n", encoding="utf-8")


def normalisation_in(folder: Path) -> Normalisation | None:
    """What the folder's ``preprocessor_config.json`` normalises with; None if it says nothing of it.

    Raises:
        CheckpointError: the file is damaged, or its mean and deviation are not as many positive numbers.
    """
    path = folder / PROCESSOR
    if not path.is_file():
        return None
    config = read_object(path)
    if config.get("image_mean") is None or config.get("image_std") is None:
        return None
    mean, std = (_numbers(config[key]) for key in ("image_mean", "image_std"))
    if not mean or len(mean) != len(std) or min(std) <= 0:
        raise CheckpointError(
            f"{path}: expected image_mean and image_std as lists of as many numbers, the second positive, "
            f"got {config['image_mean']!r:.60} and {config['image_std']!r:.60}"
        )
    return Normalisation(mean, std)


def _numbers(value: JsonValue) -> tuple[float, ...]:
    """The numbers of a list; empty if it is none, or holds anything else."""
    values = value if isinstance(value, list) else []
    finite = [float(one) for one in values if isinstance(one, int | float) and math.isfinite(one)]
    return tuple(finite) if len(finite) == len(values) else ()
