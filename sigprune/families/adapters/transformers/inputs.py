"""Example inputs of transformers models, told from their configuration and the signature of ``forward``."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from torch import Tensor

from sigprune.families.adapters._examples import first_input
from sigprune.families.adapters.transformers.input_makers import MAKERS, takes
from sigprune.families.adapters.transformers.input_sizes import Facts, facts_of
from sigprune.families.adapters.transformers.placeholders import with_towers
from sigprune.values.batch import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WITH = {
    "input_ids": (
        "attention_mask", "decoder_input_ids", "bbox", "visual_feats", "visual_pos", "is_longer", "lang_ids",
        "use_cache", "input_features", "pixel_values", "pixel_values_videos",
    ),
    "pixel_values": (
        "input_ids", "spatial_shapes", "pixel_attention_mask", "aspect_ratio_ids", "aspect_ratio_mask",
        "cross_attention_mask", "image_attention_mask", "image_embeds_position_mask",
        "target_sizes", "image_sizes", "image_grid_thw", "qformer_attention_mask",
    ),
    "input_values": ("decoder_input_ids", "decoder_input_values", "pixel_values_videos"),
    "input_features": ("decoder_input_ids", "input_features_mask"),
    "states": ("actions", "rewards", "returns_to_go", "timesteps"),
    "past_values": ("past_values_padding", "future_values", "future_time_features"),
    "query_embeds": ("encoder_hidden_states",),
    "pixel_values_videos": ("input_values",),
    "action_embeds": ("input_ids", "attention_mask", "pixel_values", "pixel_attention_mask"),
}  # fmt: skip
"""Inputs that go with another one, if forward takes them: in the order in which they are made."""


def input_name(model: PreTrainedModel) -> str:
    """The main input that the class states, if its forward takes that, else the first that it takes."""
    stated = model.main_input_name
    accepted = inspect.signature(model.forward).parameters
    names = [stated] if isinstance(stated, str) else list(stated)
    return next((name for name in names if name in accepted), None) or first_input(model)


def example_of(model: PreTrainedModel) -> Batch:
    """One deterministic example; empty where no tensors can be an input.

    Images and sound rise from -1 to 1; ids are spread over the vocabulary and avoid the special ones.
    """
    facts = facts_of(model)
    main = input_name(model)
    if not {main, *facts.required} <= MAKERS.keys():
        return Batch({})
    wanted = _wanted(facts, main)
    made: dict[str, Tensor] = {}
    for name in MAKERS:
        if name in wanted:
            made[name] = MAKERS[name](facts, made)
    if main == "input_ids" and "pixel_values" not in made and made[main].dim() == 2:
        made = with_towers(facts, made)
    return Batch({main: made[main], **made})


def _wanted(facts: Facts, main: str) -> list[str]:
    names = [main, *facts.required]
    for name in names:
        names += [n for n in _WITH.get(name, ()) if n not in names and _wants(facts, n)]
    return names


def _wants(facts: Facts, name: str) -> bool:
    """Images and sound that stand beside the text come at once, those inside it later."""
    tokens = () if "aspect_ratio_ids" in facts.accepted else _PLACEHOLDERS.get(name, ())
    inside = any(token in facts.tree for token in tokens) or (
        name in _PLACEHOLDERS and facts.model.config.is_encoder_decoder
    )
    return takes(facts, name) and not inside


_PLACEHOLDERS = {
    "pixel_values": ("image_token_id", "image_token_index", "image_patch_id", "vocabulary_map"),
    "pixel_values_videos": ("video_token_id", "video_token_index", "image_token_id", "image_patch_id"),
    "input_features": ("audio_token_id", "audio_token_index"),
}
