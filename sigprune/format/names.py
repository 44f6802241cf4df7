"""The names of the files in a model's folder. Each stands here once."""

from __future__ import annotations

import re

STEM, VARIANT = "model", "sparse"

CONFIG = "config.json"
"""What makes the network, in the words of its library."""

DENSE = f"{STEM}.safetensors"
"""The one file of a dense model, as timm and transformers name it."""

DENSE_INDEX = f"{DENSE}.index.json"
"""The index of a dense model in several files; likewise."""

PACKED = f"{STEM}.{VARIANT}.safetensors"
"""The one file of a packed model; what transformers reads for ``variant="sparse"``."""

PACKED_INDEX = f"{DENSE}.index.{VARIANT}.json"
"""The index of a packed model in several files; likewise."""

REPORT = "report.json"
"""What happened in the run that made the model."""

RECIPE = "recipe.yaml"
"""The run's recipe, every default resolved."""

CARD = "README.md"
"""The model card."""

PROCESSOR = "preprocessor_config.json"
"""How transformers prepares images, and other inputs that are not text."""

_PACKED_SHARD = re.compile(rf"{STEM}\.{VARIANT}-(\d{{5}})-of-(\d{{5}})\.safetensors")
_DENSE_FILE = re.compile(rf"{STEM}\.safetensors(\.index\.json)?|{STEM}-\d{{5}}-of-\d{{5}}\.safetensors")


def packed_shard(number: int, count: int) -> str:
    """The file name of a packed model's shard (counted from 1), as transformers numbers them."""
    return f"{STEM}.{VARIANT}-{number:05}-of-{count:05}.safetensors"


def dense_shard(number: int, count: int) -> str:
    """The file name of a dense model's shard (counted from 1)."""
    return f"{STEM}-{number:05}-of-{count:05}.safetensors"


def is_packed_file(name: str) -> bool:
    """Whether files of this name belong to packed models."""
    return name in {PACKED, PACKED_INDEX} or _PACKED_SHARD.fullmatch(name) is not None


def is_dense_file(name: str) -> bool:
    """Whether files of this name belong to the same model dense, as timm and transformers name them."""
    return _DENSE_FILE.fullmatch(name) is not None
