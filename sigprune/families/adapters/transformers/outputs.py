"""The tensor of interest among the outputs of a transformers model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from torch import Tensor

from sigprune.base.errors import UnsupportedModel

_LOGITS = ("logits", "logits_per_image", "logits_per_video", "logits_per_audio", "logits_per_speech")
_LAST = {"patch_input", "intermediate_hidden_states", "fpn_hidden_states"}
"""What else the outputs name whose hidden state (examples, rows, columns, features) has its features last."""

_POOLED = ("pooler_output", "image_embeds")


def read_output(output: object) -> Tensor:
    """The logits; else the last hidden state, averaged over tokens or pixels; else the pooled output.

    Where there is none of them: the last feature map, averaged over pixels; else the first floating-point
    tensor among the outputs, in their order. Outputs inside outputs are looked into.

    Raises:
        UnsupportedModel: the output has no floating-point tensor.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        known = _known(output)
        if known is not None:
            return known
    for tensor in _floats(output):
        return tensor
    raise UnsupportedModel(f"no floating-point tensor in the model's output, a {type(output).__name__}")


def _known(output: Mapping[str, object]) -> Tensor | None:
    for name in _LOGITS:
        for tensor in _floats(output.get(name)):  # several heads: the first
            return tensor
    inner = output.get("language_model_outputs")  # of a language model that reads what the other towers say
    if isinstance(inner, Mapping):
        return read_output(inner)
    state = output.get("last_hidden_state")
    if isinstance(state, Tensor):
        last = state.dim() == 4 and not _LAST.isdisjoint(output)
        return state.flatten(1, 2).mean(1) if last else _pooled(state)
    for name in _POOLED:
        if isinstance(output.get(name), Tensor):
            return cast(Tensor, output[name])
    maps = output.get("feature_maps")
    return _pooled(maps[-1]) if isinstance(maps, list | tuple) and maps else None


def _pooled(state: Tensor) -> Tensor:
    """One row per example: the mean over tokens (second axis of three) or pixels (axes after the second).

    Packed patches (patches, features) have no axis of examples: all of them are one.
    """
    if state.dim() == 2:
        return state.mean(0, keepdim=True)
    return state.mean(1) if state.dim() == 3 else state.flatten(2).mean(2)


def _floats(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
        return
    parts = output.values() if isinstance(output, Mapping) else output
    for part in parts if isinstance(output, Mapping | list | tuple) else ():  # type: ignore[attr-defined]
        yield from _floats(part)
