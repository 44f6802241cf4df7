"""Example images of transformers models: single ones, videos, tiles, and patches packed into rows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from sigprune.families.adapters._examples import ramp
from sigprune.families.adapters.transformers.input_sizes import Facts, Made, Maker

IMAGE_SIZE = 224
"""Pixels a side for networks that take any size and name none."""

GRID = (1, 4, 4)
"""Frames, rows and columns of packed patches."""

SHOTS = 4
"""Frames of a video that stands in a text."""

PAIRED = frozenset({"efficientloftr", "lightglue"})
"""Types that match two images: nothing in their configuration or signature tells it."""


def image(facts: Facts) -> Tensor:
    """``pixel_values`` in the shape that the other inputs of the network ask for."""
    kind = facts.model.config.model_type
    if facts.accepted & {"grid_thw", "image_grid_thw"} or kind in {"neomme", "inkling_mm_model"}:
        return packed(facts)
    if facts.accepted & {"spatial_shapes", "pixel_position_ids", "image_position_ids"} or kind == "fuyu":
        return packed(facts).unsqueeze(0)
    height, width = sides(facts)
    if "target_sizes" in facts.accepted:  # the patches of the image side by side
        height = facts.number("patch_size", default=14)
        width = GRID[1] * GRID[2] * height
    if "prompt_pixel_values" in facts.accepted:
        height //= 2  # the prompt fills the other half
    return ramp(*_leading(facts), channels(facts), height, width)


def _leading(facts: Facts) -> tuple[int, ...]:
    """The axes before the colours: examples, then images, tiles or frames."""
    accepted, kind = facts.accepted, facts.model.config.model_type
    frames = facts.number("num_frames", default=0)
    several = {"perceiver_embeddings", "pixel_attention_mask"}
    cases = (
        ("aspect_ratio_ids" in accepted, (1, 1, facts.number("max_num_tiles", default=4))),
        ("qformer_input_ids" in accepted and "video_token_index" in facts.tree, (1, SHOTS)),
        (facts.find("image_grid_pinpoints") is not None, (1, 3)),  # the whole image and two tiles
        (bool(accepted & several) or kind == "perception_lm", (1, 1)),  # several images per text
        (kind in PAIRED, (1, 2)),
        (frames > 0, (1, frames)),
    )
    return next((axes for holds, axes in cases if holds), (1,))


def sides(facts: Facts) -> tuple[int, int]:
    """Height and width in pixels."""
    ratios = facts.find("scaled_images_ratios")
    if isinstance(ratios, list | tuple):  # the smallest of several scales is one patch, as in Depth Pro
        side = round(facts.number("patch_size", default=384) / min(ratios))
        return side, side
    size = facts.find("image_size", "crop_size", "max_img_size", "img_size", "input_size") or _timm_size(
        facts
    )
    if isinstance(size, Mapping):
        size = tuple(size.values())
    height, width = size[-2:] if isinstance(size, list | tuple) else (size, size)
    windows = facts.find("num_windows")
    if isinstance(windows, int):  # windows of whole patches, as in RF-DETR
        step = windows * facts.number("patch_size", default=1)
        height, width = (side - side % step if side > step else side for side in (height, width))
    return int(height), int(width)


def _timm_size(facts: Facts) -> int:
    """Networks of timm tell their size by the end of their name, as in ``vit_base_patch16_384``."""
    found = re.search(r"_(\d{3})$", str(facts.find("architecture")))
    return int(found[1]) if found else IMAGE_SIZE


def channels(facts: Facts) -> int:
    """Colours of an image."""
    return facts.number("num_channels", "in_channels", "in_chans", default=3)


def packed(facts: Facts) -> Tensor:
    """Patches of one image as rows (patches, channels · frames · side²), or as small images."""
    side, colours, count = facts.number("patch_size", default=14), channels(facts), math.prod(GRID)
    frames = facts.number("temporal_patch_size", "patch_temporal", default=1)
    shapes = {
        "kimi_k25": (colours, side, side),
        "paddleocr_vl": (colours, side, side),
        "inkling2": (2 * side, 2 * side, colours),  # squares of four patches
        "inkling_mm_model": (frames, side, side, colours),
    }
    shape = shapes.get(facts.model.config.model_type.removesuffix("_vision"))
    return ramp(count, *(shape or (colours * frames * side**2,)))


def _grid(_: Facts, __: Made) -> Tensor:
    return torch.tensor([list(GRID)])


def _positions(_: Facts, __: Made) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(GRID[1]), torch.arange(GRID[2]), indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()], -1).unsqueeze(0)


def _kept(facts: Facts, _: Made) -> Tensor:
    """Which patches count; where there are whole images instead, which of these."""
    if "spatial_shapes" in facts.accepted:
        return torch.ones(1, GRID[1] * GRID[2], dtype=torch.long)
    return torch.ones(1, 1, dtype=torch.bool)


def _high(facts: Facts, _: Made) -> Tensor:
    tower = facts.tree.get("high_res_vision_config")
    side = tower.get("image_size") if isinstance(tower, Mapping) else None
    return ramp(1, channels(facts), *(2 * [side if isinstance(side, int) else 1024]))


def _video(facts: Facts, _: Made) -> Tensor:
    frames = facts.number("num_frames", default=2 * facts.number("tubelet_size", default=1))
    return ramp(1, frames, channels(facts), *sides(facts))


def _sizes(facts: Facts, _: Made) -> Tensor:
    return torch.tensor([list(sides(facts))])


def _tiles(_: Facts, made: Made) -> Tensor:
    return torch.ones(1, 1, made["pixel_values"].shape[2], dtype=torch.long)


def _seen(facts: Facts, made: Made) -> Tensor:
    """Which token sees which image, or which tile of it."""
    tokens = made["input_ids"].shape[1]
    tiles = made["pixel_values"].shape[2:3] if "aspect_ratio_ids" in facts.accepted else ()
    return torch.ones(1, tokens, 1, *tiles, dtype=torch.long)


BESIDE: Mapping[str, Maker] = {
    "pixel_values_videos": _video,
    "high_res_pixel_values": _high,
    "prompt_pixel_values": lambda _, made: made["pixel_values"],
    "prompt_masks": lambda _, made: made["pixel_values"],
    "grid_thw": _grid,
    "image_grid_thw": _grid,
    "merge_sizes": lambda _, __: torch.tensor([1]),
    "spatial_shapes": lambda _, __: torch.tensor([list(GRID[1:])]),
    "target_sizes": lambda _, __: torch.tensor([list(GRID[1:])]),
    "pixel_position_ids": _positions,
    "pixel_attention_mask": _kept,
    "image_position_ids": _positions,
    "image_sizes": _sizes,
    "image_merge_sizes": lambda _, __: torch.tensor([1]),
    "aspect_ratio_ids": lambda _, __: torch.ones(1, 1, dtype=torch.long),
    "aspect_ratio_mask": _tiles,
    "cross_attention_mask": _seen,
    "image_attention_mask": _seen,
}
"""What networks take besides ``pixel_values``, by name."""
