"""How one input of a transformers model is made, by the name that ``forward`` gives it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sigprune.families.adapters._examples import ramp
from sigprune.families.adapters.transformers.images import BESIDE, SHOTS, image, packed, sides
from sigprune.families.adapters.transformers.input_sizes import Facts, Made, Maker
from sigprune.families.adapters.transformers.sounds import (
    FRAMES,
    WAVE,
    frames_mask,
    mel_bins,
    spectrogram,
    waveform,
)

TOKENS = 16
"""Tokens of a text."""

STEPS = 5
"""Steps of a trajectory."""

BOXES = 6
"""Regions of an image whose features come from a detector."""


def text_ids(facts: Facts, limit: int = TOKENS) -> Tensor:
    """Ids (1, tokens) spread over the vocabulary that avoid the special ones and end with the text's end.

    There the towers of CLIP and encoder-decoder classifiers read their result.
    """
    size = vocabulary(facts)
    special = _special(facts)
    ids = [i for i in range(size) if i not in special] or [0]
    longest = facts.number("max_position_embeddings", "n_positions", kind="text", default=4 * TOKENS)
    length = max(2, min(limit, longest // 2, len(ids)))
    chosen = torch.tensor(ids)[torch.linspace(0, len(ids) - 1, length).long()]
    end = facts.number("eos_token_id", kind="text", default=-1)
    if 0 <= end < size:
        chosen[-1] = end
    return chosen.unsqueeze(0)


def vocabulary(facts: Facts) -> int:
    """How many ids there are; models that hash the code points of a text take any."""
    config = facts.model.config.get_text_config().to_dict()
    own = next((config[n] for n in ("vocab_size", "src_vocab_size") if type(config.get(n)) is int), None)
    return own or facts.number("vocab_size", "src_vocab_size", "num_hash_buckets", kind="text", default=256)


def _special(facts: Facts) -> set[object]:
    config = facts.model.config.get_text_config().to_dict()
    numbers = [v for part in (config, facts.tree) for k, v in part.items() if k.endswith(_TOKEN_ENDS)]
    return {n for v in numbers for n in (v if isinstance(v, list) else [v])}


_TOKEN_ENDS = ("_token_id", "_token_index")


def _ids(facts: Facts, _: Made) -> Tensor:
    ids = text_ids(facts)
    if "action_embeds" in facts.accepted or "num_query_tokens" in facts.tree:
        return torch.cat([_image_ids(facts), ids], 1)
    if "image_embeds_position_mask" in facts.accepted:  # the image stands before the text, as in Kosmos-2
        return torch.cat([ids[:, :1].expand(-1, facts.number("latent_query_num", default=64)), ids], 1)
    books = facts.tree.get("num_codebooks")
    if not isinstance(books, int):
        return ids
    if "codebook_vocab_size" in facts.tree:
        return ids.unsqueeze(-1).expand(-1, -1, books + 1)  # a column for the text and one for each codebook
    tables = [m for m in facts.model.modules() if isinstance(m, nn.Embedding)]
    stacked = "audio_channels" in facts.tree and len(tables) == books
    return ids.expand(books, -1) if stacked else ids  # a row for each codebook, as in MusicGen


def _image_ids(facts: Facts) -> Tensor:
    """Placeholders where no ``get_image_features`` tells the rows: one for each query, else each patch."""
    patches = math.prod(side // facts.number("patch_size", default=14) for side in sides(facts))
    count = facts.number("num_query_tokens", default=patches)
    if "video_token_index" in facts.tree:
        return torch.full((1, SHOTS * count), facts.number("video_token_index", default=0))
    return torch.full((1, count), facts.number("image_token_id", "image_token_index", default=0))


def _before_text(facts: Facts, made: Made) -> Tensor:
    mask = torch.zeros_like(made["input_ids"])
    mask[:, : facts.number("latent_query_num", default=64)] = 1
    return mask


def _task(facts: Facts, _: Made) -> Tensor:
    return text_ids(facts)[:, :1].expand(-1, facts.number("task_seq_len", default=TOKENS))


def _decoder_ids(facts: Facts, made: Made) -> Tensor:
    ids = made["input_ids"] if "input_ids" in made else text_ids(facts, 4)
    decoder = facts.tree.get("decoder_config")
    channels = decoder.get("num_channels") if isinstance(decoder, Mapping) else None
    return ids if channels is None else ids.unsqueeze(-1).expand(-1, -1, channels)  # codebooks, as in Dia


def _ones(name: str) -> Maker:
    return lambda _, made: torch.ones(made[name].shape[:2], dtype=torch.long)


def _full(value: float, *shape: int) -> Maker:
    return lambda _, __: torch.full(shape, value)


def _boxes(facts: Facts, made: Made) -> Tensor:
    """Boxes (1, tokens, 4) that grow along the text: whole numbers up to 1000, or fractions of the page."""
    tokens = made["input_ids"].shape[1]
    largest = facts.number("max_2d_position_embeddings", kind="text", default=1000) - 1
    corners = torch.linspace(0.0, 0.5, tokens)[:, None] + torch.tensor([0.0, 0.0, 0.25, 0.25])
    if facts.find("dim_bbox") is not None:
        return corners.repeat(1, facts.number("dim_bbox", default=8) // 4)[None]
    fractions = "visual_bbox" in facts.accepted
    return corners[None] if fractions else (largest * corners[None]).long()


def _rows(*names: str, rows: int, default: int = 1) -> Maker:
    return lambda facts, _: ramp(1, rows, facts.number(*names, default=default))


def _past(facts: Facts, _: Made) -> Tensor:
    length = facts.number("context_length", default=64)
    lags, channels = facts.find("lags_sequence"), facts.find("num_input_channels")
    if isinstance(lags, list | tuple):
        return ramp(1, length + max(lags))
    return ramp(1, length, channels) if isinstance(channels, int) else ramp(1, length)


def _time(name: str) -> Maker:
    return lambda facts, made: torch.zeros(*made[name].shape, facts.number("num_time_features", default=0))


def _future(facts: Facts, _: Made) -> Tensor:
    return ramp(1, facts.number("prediction_length", default=1))


def _context(facts: Facts, _: Made) -> Tensor:
    layers = facts.find("target_layer_ids", kind="text")
    count = len(layers) if isinstance(layers, list | tuple) else 1
    return ramp(1, TOKENS, count * facts.number("hidden_size", kind="text", default=1))


def _hidden(facts: Facts, _: Made) -> Tensor:
    """What a network calls its hidden states: packed patches, sound, or what a codec has coded."""
    if "grid_thw" in facts.accepted:
        return packed(facts)
    if "num_filters" in facts.tree and type(facts.model).__name__.endswith("EncoderModel"):
        return torch.sin(torch.arange(WAVE) / 7.0).reshape(1, 1, -1)
    return ramp(1, facts.number("hidden_size", default=1), TOKENS // 2)


def _latents(facts: Facts, _: Made) -> Tensor:
    return ramp(1, facts.number("hidden_size", default=1), TOKENS // 2)


def _actions(facts: Facts, _: Made) -> Tensor:
    """As wide as the network that takes the actions away from noise."""
    network = facts.tree.get("dit_config")
    width = network.get("hidden_size") if isinstance(network, Mapping) else None
    return ramp(1, STEPS, width if isinstance(width, int) else facts.number("hidden_size", default=1))


def _samples(facts: Facts, made: Made) -> Tensor:
    hop = facts.number("hop_length", kind="sound", default=160)
    return torch.tensor([hop * made["input_features"].shape[-1]])


MAKERS: Mapping[str, Maker] = {
    "input_ids": _ids,
    "pixel_values": lambda facts, _: image(facts),
    **BESIDE,
    "attention_mask": _ones("input_ids"),
    "decoder_input_ids": _decoder_ids,
    "qformer_input_ids": lambda facts, _: text_ids(facts, BOXES),
    "qformer_attention_mask": _ones("qformer_input_ids"),
    "task_inputs": _task,
    "image_embeds_position_mask": _before_text,
    "classes_input_ids": lambda facts, _: text_ids(facts, BOXES).expand(2, -1),
    "classes_attention_mask": _ones("classes_input_ids"),
    "classes_structure": _full(2, 1),
    "tasks_input_ids": lambda facts, _: text_ids(facts, BOXES),
    "tasks_attention_mask": _ones("tasks_input_ids"),
    "use_cache": _full(False, 1),
    "lang_ids": _full(0, 1),
    "bbox": _boxes,
    "visual_feats": _rows("visual_feat_dim", rows=BOXES),
    "visual_pos": _rows("visual_pos_dim", rows=BOXES, default=4),
    "input_values": lambda facts, _: waveform(facts),
    "decoder_input_values": _rows("hidden_size", rows=TOKENS // 2),
    "input_features": lambda facts, _: spectrogram(facts),
    "input_features_mask": frames_mask,
    "feature_attention_mask": frames_mask,
    "chunk_sample_lengths": _samples,
    "is_longer": _full(True, 1, 1),
    "audio_mel": lambda facts, _: ramp(1, FRAMES, mel_bins(facts)),
    "audio_mel_mask": _full(False, 1, FRAMES),
    "hidden_states": _hidden,
    "latents": _latents,
    "inputs": _rows("d_model", rows=TOKENS),
    "inputs_embeds": _rows("hidden_size", rows=TOKENS),
    "query_embeds": _rows("hidden_size", rows=TOKENS // 2),
    "encoder_hidden_states": _rows("encoder_hidden_size", rows=TOKENS),
    "noise_embeds": _rows("hidden_size", rows=TOKENS // 2),
    "context_hidden_states": _context,
    "action_embeds": _actions,
    "states": _rows("state_dim", rows=STEPS),
    "actions": _rows("act_dim", rows=STEPS),
    "rewards": lambda _, __: ramp(1, STEPS, 1),
    "returns_to_go": lambda _, __: ramp(1, STEPS, 1),
    "timesteps": lambda _, __: torch.arange(STEPS).unsqueeze(0),
    "past_values": _past,
    "past_values_padding": lambda _, made: torch.zeros_like(made["past_values"]),
    "past_time_features": _time("past_values"),
    "past_observed_mask": lambda _, made: torch.ones_like(made["past_values"]),
    "future_values": _future,
    "future_time_features": _time("future_values"),
    "freq": _full(0, 1, 1),
}


_ONLY_WITH: Mapping[str, frozenset[str]] = {
    # elsewhere all patches count
    "pixel_attention_mask": frozenset({"spatial_shapes", "action_embeds", "tile_fine_mask"}),
    "image_attention_mask": frozenset({"perceiver_embeddings"}),  # other networks call another mask so
    "use_cache": frozenset({"patch_lengths"}),  # Blt 5.23 makes no cache: its configuration counts no layers
}
"""Inputs that are given only to a forward that takes one of these as well."""


def takes(facts: Facts, name: str) -> bool:
    """Whether forward takes an input that the example can have."""
    if name not in facts.accepted or name not in MAKERS:
        return False
    if name == "decoder_input_ids":
        return bool(facts.model.config.is_encoder_decoder)
    if name == "image_sizes":  # towers of fixed size do not take it, though forward does
        vision = facts.tree.get("vision_config")
        sized = not isinstance(vision, Mapping) or vision.get("model_type") == "pixtral"
        return sized or "image_grid_pinpoints" in facts.tree
    return name not in _ONLY_WITH or bool(facts.accepted & _ONLY_WITH[name])
