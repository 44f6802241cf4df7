"""Example inputs of transformers models, told from their configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sigprune.families.adapters._shared import first_input, ramp
from sigprune.values.batch import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 16
IMAGE_SIZE = 224
"""Pixels a side for networks that take any size and name none."""

WAVE = 4000
"""Samples of a waveform: a quarter of a second at 16 kHz."""


def input_name(model: PreTrainedModel) -> str:
    """The main input that the class states, if its forward takes that, else the first that it takes."""
    name = str(model.main_input_name)
    return name if name in inspect.signature(model.forward).parameters else first_input(model)


def example_of(model: PreTrainedModel) -> Batch:
    """One deterministic example by the model's main input; empty for inputs of other kinds.

    Images and sound rise from -1 to 1; ids are spread over the vocabulary and avoid the special ones.
    """
    facts = model.config.to_dict()
    accepted = inspect.signature(model.forward).parameters
    name = input_name(model)
    if name == "pixel_values":
        return Batch({name: _image(facts)})
    if name == "input_values":
        return Batch({name: _sound(facts)})
    if name == "input_ids" and "vocab_size" in model.config.get_text_config().to_dict():
        inputs = _text(model)
        if "decoder_input_ids" in accepted and facts.get("is_encoder_decoder"):
            inputs["decoder_input_ids"] = inputs["input_ids"]
        if "attention_mask" in accepted:
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "pixel_values" in accepted and "vision_config" in facts and "image_token_id" not in facts:
            inputs["pixel_values"] = _image(facts)  # two towers side by side, as in CLIP
        return Batch(inputs)
    return Batch({})


def _image(facts: Mapping[str, object]) -> Tensor:
    vision = facts.get("vision_config")
    facts = vision if isinstance(vision, dict) else facts
    size = facts.get("image_size") or IMAGE_SIZE
    height, width = size if isinstance(size, list | tuple) else (size, size)
    frames, channels = facts.get("num_frames"), facts.get("num_channels", 3)
    sides = (channels, height, width) if not frames else (frames, channels, height, width)
    return ramp(1, *(int(side) for side in sides if isinstance(side, int)))


def _sound(facts: Mapping[str, object]) -> Tensor:
    bins, length = facts.get("num_mel_bins"), facts.get("max_length")
    if isinstance(bins, int) and isinstance(length, int) and "patch_size" in facts:
        return ramp(1, length, bins)  # a spectrogram, as in AST
    return torch.sin(torch.arange(WAVE) / 7.0).unsqueeze(0)


def _text(model: PreTrainedModel) -> dict[str, Tensor]:
    config = model.config.get_text_config()
    facts = config.to_dict() | {k: v for k, v in model.config.to_dict().items() if k.endswith("_token_id")}
    numbers = [v for k, v in facts.items() if k.endswith("_token_id")]
    special = {n for v in numbers for n in (v if isinstance(v, list) else [v])}
    vocabulary = [i for i in range(config.vocab_size) if i not in special] or [0]
    limit = getattr(config, "max_position_embeddings", None) or 4 * TOKENS
    length = max(2, min(TOKENS, int(limit) // 2, len(vocabulary)))
    ids = torch.tensor(vocabulary)[torch.linspace(0, len(vocabulary) - 1, length).long()]
    end = facts.get("eos_token_id")
    if isinstance(end, int) and 0 <= end < config.vocab_size:
        ids[-1] = end  # where the towers of CLIP and encoder-decoder classifiers read their result
    return {"input_ids": ids.unsqueeze(0)}
