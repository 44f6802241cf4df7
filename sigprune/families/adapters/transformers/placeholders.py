"""Text with images and sound in it: as many placeholder tokens as the other towers give rows.

How many rows an image takes follows from the arithmetic of each model (patches, class tokens, pooling,
tiles, separators); its own ``get_image_features`` is the one place that says it for all of them.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sigprune.base.errors import one_line
from sigprune.families.adapters.transformers.input_makers import MAKERS, takes, vocabulary
from sigprune.families.adapters.transformers.input_sizes import Facts, Made


@dataclass(frozen=True)
class Tower:
    """A second tower whose rows take the place of tokens in the text.

    Attributes:
        method: of the model; gives the rows.
        config: the field of its configuration; None in models without that tower.
        main: its first input, by the name that ``forward`` has too.
        tokens: fields that hold the placeholder's id.
        around: fields that hold the ids before and after the placeholders.
    """

    method: str
    config: str
    main: str
    tokens: tuple[str, ...]
    around: tuple[tuple[str, ...], tuple[str, ...]]


TOWERS = (
    Tower(
        "get_image_features", "vision_config", "pixel_values",
        ("image_token_id", "image_token_index", "image_patch_id"),
        (("vision_start_token_id", "image_start_token_id"), ("vision_end_token_id", "image_end_token_id")),
    ),
    Tower(
        "get_audio_features", "audio_config", "input_features", ("audio_token_id", "audio_token_index"),
        (("audio_bos_token_id", "audio_start_token_id"), ("audio_eos_token_id", "audio_end_token_id")),
    ),
    Tower(
        "get_audio_features", "audio_config", "input_values", ("audio_token_id", "audio_token_index"),
        (("audio_bos_token_id", "audio_start_token_id"), ("audio_eos_token_id", "audio_end_token_id")),
    ),
)  # fmt: skip


def placeholders(tree: Mapping[str, object]) -> frozenset[int]:
    """The ids in a text whose rows come from another tower, of a configuration as nested mappings."""
    fields = {*(name for tower in TOWERS for name in tower.tokens), "video_token_id", "video_token_index"}
    return frozenset(number for name in fields if type(number := tree.get(name)) is int)


def with_towers(facts: Facts, made: Made) -> dict[str, Tensor]:
    """A text with an image or sound in the middle, for each tower that the model has; runs these towers once.

    Warns where a tower does not run on its example: the text then stays without it.

    Args:
        facts: of a model whose text has placeholders.
        made: the inputs so far, with ``input_ids`` of shape (1, tokens).
    """
    place = made["input_ids"].shape[1]
    inputs, device = dict(made), next(facts.model.parameters()).device
    for tower in TOWERS:
        token = _token(facts, tower)
        if token is None or device.type == "meta":  # nothing can be counted without numbers
            continue
        try:
            extra = _inputs_of(facts, tower, inputs)
            rows = _rows(facts, tower, extra)
        except Exception as error:  # whatever the model's own code raises for an input that does not fit
            warnings.warn(
                f"the example of {facts.model.config.model_type} has no {tower.main}: "
                f"{tower.method} fails: {one_line(error)}",
                stacklevel=2,
            )
            continue
        place //= 2  # some text stays between an image and the sound before it
        before, after = _between(facts, tower)
        middle = torch.tensor([[*before, *[token] * rows, *after]])
        ids = inputs["input_ids"]
        inputs |= extra | {"input_ids": torch.cat([ids[:, :place], middle, ids[:, place:]], 1)}
    return inputs | _along(facts, inputs)


def _token(facts: Facts, tower: Tower) -> int | None:
    """The placeholder's id; None without that tower, or where it asks for what cannot be made."""
    token = next((facts.tree[n] for n in tower.tokens if type(facts.tree.get(n)) is int), None)
    absent = facts.tree.get(tower.config, ...) is None or "vocabulary_map" in facts.tree
    if absent or not isinstance(token, int) or not facts.accepted >= {"input_ids", tower.main}:
        return None
    method = getattr(facts.model, tower.method, None)
    if method is None:
        return None
    accepted = inspect.signature(method).parameters.values()
    needed = {p.name for p in accepted if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
    known = needed <= MAKERS.keys() - {"input_ids"} and facts.model.config.model_type not in _IDS
    return token if known and 0 <= token < vocabulary(facts) else None


def _inputs_of(facts: Facts, tower: Tower, made: Made) -> dict[str, Tensor]:
    """What the tower takes, as far as forward takes it and it can be made."""
    accepted = inspect.signature(getattr(facts.model, tower.method)).parameters
    extra: dict[str, Tensor] = {}
    for name in MAKERS:
        if name in accepted and takes(facts, name):
            extra[name] = MAKERS[name](facts, {**made, **extra})
    return extra


_IDS = frozenset({"glm_image"})
"""Types whose images become ids of the text: nothing continuous leads from the pixels to the output."""


def _rows(facts: Facts, tower: Tower, extra: Mapping[str, Tensor]) -> int:
    padded = facts.tree.get("audio_soft_tokens_per_image")
    if isinstance(padded, int) and tower.method == "get_audio_features":
        return padded  # forward pads a shorter sound, as in Gemma 3n
    parameter = next(facts.model.parameters())
    ready = {
        k: v.to(parameter.device, parameter.dtype if v.is_floating_point() else None)
        for k, v in extra.items()
    }
    found = getattr(facts.model, tower.method)(**ready)
    if not isinstance(found, Mapping):
        return _count(found)
    if found.get("deepstack_features") is not None and found.get("pooler_output") is None:
        return _count(found["deepstack_features"][:1])  # each level has all rows
    return _count(
        found["last_hidden_state"] if found.get("pooler_output") is None else found["pooler_output"]
    )


def _count(found: object) -> int:
    """Rows of all tensors, in lists of lists too; the last axis holds features."""
    return sum(tensor.shape[:-1].numel() for tensor in _tensors(found))


def _tensors(found: object) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    for part in found if isinstance(found, list | tuple) else ():
        yield from _tensors(part)


def _between(facts: Facts, tower: Tower) -> Iterator[list[int]]:
    """The tokens before the placeholders and those after them, where the configuration names such."""
    for names in tower.around:
        yield [number for n in names if type(number := facts.tree.get(n)) is int][:1]


def _along(facts: Facts, inputs: Made) -> dict[str, Tensor]:
    """What goes along with every token: the mask, and the kind of each (0 text, 1 image)."""
    ids, along = inputs["input_ids"], {}
    if "attention_mask" in inputs:
        along["attention_mask"] = torch.ones_like(ids)
    token = _token(facts, TOWERS[0])
    for name in ("mm_token_type_ids", "moe_mm_token_type_ids"):
        if name in facts.accepted and token is not None:
            along[name] = (ids == token).long()
    return along
