"""Example sounds of transformers models: waveforms and spectrograms."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sigprune.families.adapters._examples import ramp
from sigprune.families.adapters.transformers.input_sizes import KINDS, Facts, Made

FRAMES = 64
"""Columns of a spectrogram, where the network takes any number."""

WAVE = 3840
"""Samples of a waveform: a quarter of a second at 16 kHz, a whole number of the frames of most codecs."""

_CODEC = ("audio_channels", "channels", "codebook_size", "quantization_dim")
_BINS = (
    "num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel", "input_feat_size",
    "feature_size", "n_mels", "subsampling_conv_channels", "input_dim",
)  # fmt: skip


def waveform(facts: Facts) -> Tensor:
    """``input_values``: (1, samples); (1, 1, samples) for codecs, which count channels."""
    bins, length = facts.find("num_mel_bins"), facts.find("max_length")
    if isinstance(bins, int) and isinstance(length, int) and "patch_size" in facts.tree:
        return ramp(1, length, bins)  # a spectrogram, as in AST
    if "decoder_input_values" in facts.accepted:
        return ramp(1, FRAMES // 2, facts.number("hidden_size", default=1))  # behind a network of its own
    wave = torch.sin(torch.arange(WAVE) / 7.0).unsqueeze(0)
    return wave.unsqueeze(1) if facts.find(*_CODEC, kind="sound") is not None else wave


def spectrogram(facts: Facts) -> Tensor:
    """``input_features``: (1, bins, frames) for stems of Conv1d over the mel bins, else (1, frames, bins)."""
    bins, stem = mel_bins(facts), _stem(facts)
    if "is_longer" in facts.accepted:
        side = facts.number("spec_size", kind="sound", default=256)
        return ramp(1, 1, side * side // bins, bins)  # strips that make a square image, as in CLAP
    ratios = facts.tree.get("downsampling_ratios")
    if "input_values" in facts.accepted and isinstance(ratios, list | tuple):
        return ramp(1, WAVE // math.prod(ratios), bins)  # as many frames as the waveform has
    tokens = facts.number("audio_length_per_tok", kind="sound", default=0)
    frames = 2 * facts.number("max_source_positions", kind="sound", default=0) or 16 * tokens or FRAMES
    named = facts.find("num_mel_bins", "feature_size", kind="sound") == bins
    if named and isinstance(stem, nn.Conv1d) and stem.in_channels == bins and stem.groups == 1:
        return ramp(1, bins, frames)
    if isinstance(window := facts.find("n_window", kind="sound"), int):
        return ramp(1, bins, 2 * window)  # a Conv2d over the bins as rows, as in Qwen3-ASR
    if "chunk_sample_lengths" in facts.accepted:
        return ramp(1, bins, frames)
    longest = facts.number("max_position_embeddings", kind="sound", default=2 * FRAMES)
    return ramp(1, min(FRAMES, longest // 2), bins)


def mel_bins(facts: Facts) -> int:
    """Features of one frame of a spectrogram, with the frames that are stacked before the network."""
    stacked = facts.number("num_stacked_frames", kind="sound", default=1)
    if facts.model.config.model_type.startswith("granite_speech5"):
        stacked = 4  # two frames with their differences in time, which no field tells
    return stacked * facts.number(*_BINS, kind="sound", default=80)


def _stem(facts: Facts) -> nn.Module | None:
    """The first convolution over sound: that of a spectrogram, of the sound's tower, of the whole network."""
    named = [(n, m) for n, m in facts.model.named_modules() if isinstance(m, nn.Conv1d | nn.Conv2d)]
    for parts in (("mel_conv",), KINDS["sound"], ("",)):
        for name, module in named:
            if any(part in name for part in parts):
                return module
    return None


def frames_mask(facts: Facts, made: Made) -> Tensor:
    """All frames count; the axis that is not the bins is that of the frames."""
    shape = made["input_features"].shape
    return torch.ones(1, shape[1] if shape[2] == mel_bins(facts) else shape[2], dtype=torch.bool)
