"""Preprocessing in the words of the libraries that read it from a folder."""

from __future__ import annotations

import json
from pathlib import Path

from sigprune.base.family import Plain
from sigprune.values.preprocessing import Normalisation, Preprocessing

PROCESSOR = "preprocessor_config.json"
"""What ``transformers.AutoImageProcessor`` reads."""

_BILINEAR = 2
"""Of ``PIL.Image.Resampling``."""


def data_config(preprocessing: Preprocessing) -> dict[str, Plain]:
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
    config: dict[str, Plain] = {
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
    """What the folder's ``preprocessor_config.json`` normalises with; None if it says nothing."""
    path = folder / PROCESSOR
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        mean, std = (tuple(float(one) for one in config[key]) for key in ("image_mean", "image_std"))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return Normalisation(mean, std) if len(mean) == len(std) > 0 else None
