"""Small but structurally complete models of every type in transformers.

General rules (``shrinking_rules.py``, ``shrinking_layers.py``) give nearly every field its small value; what
they cannot know of single types stands in ``shrinking_hints.yaml``. No weights are fetched.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import transformers
import yaml
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from sigprune.base.rng import global_stream
from tests.support.shrinking_layers import Kept, kept_layers, overrides, small_overrides
from tests.support.shrinking_rules import (
    STAGE,
    TOKEN,
    VOCABULARY,
    WIDTH,
    WIDTHS,
    pixels,
    sections,
    small,
    small_list,
    stage_widths,
)

_FILE = yaml.safe_load((Path(__file__).parent / "shrinking_hints.yaml").read_text())
HINTS: Mapping[str, Mapping[str, object]] = _FILE["hints"]
PARTS: Mapping[str, str] = _FILE["parts"]
LARGE: Mapping[str, int] = _FILE["large"]
LEFT_OUT: Mapping[str, str] = _FILE["left_out"]


def shrunk(model_type: str) -> PreTrainedModel:
    """The base model of a type with seeded weights, on the CPU."""
    config = small_config(model_type)
    part = PARTS.get(model_type)
    with global_stream(0, "shrunk", model_type):
        return model_class(model_type)._from_config(getattr(config, part) if part else config)


def model_class(model_type: str) -> type[PreTrainedModel]:
    """The base class of a type; not through AutoModel, which 5.23 cannot ask for a few of them."""
    names = MODEL_MAPPING_NAMES[model_type]
    return getattr(transformers, names if isinstance(names, str) else names[0])


def small_config(model_type: str) -> PretrainedConfig:
    """The default configuration with every size made small, every kind of layer kept."""
    config = CONFIG_MAPPING[model_type]()
    return _Shrinker(stage_widths(_lists(each) for each in _tree(config))).config(config, {})


class _Shrinker:
    """What holds for all towers of one model: the widths of stages, and token ids (old -> new)."""

    def __init__(self, widths: Mapping[int, int]) -> None:
        self.widths = widths
        self.ids: dict[int, int] = {}

    def config(self, config: PretrainedConfig, hints: Mapping[str, object]) -> PretrainedConfig:
        """A new configuration of the same class; fields that are derived from others are derived anew."""
        hints = copy.deepcopy({**HINTS.get(config.model_type, {}), **hints})
        changed = self.fields(config, hints)
        _images(config, changed)
        _rotary(config, changed)
        nested = {name for name, value in changed.items() if isinstance(value, PretrainedConfig)}
        changed |= {name: value for name, value in hints.items() if name not in nested}
        return type(config)(**changed)

    def fields(self, config: PretrainedConfig, hints: Mapping[str, object]) -> dict[str, object]:
        """The arguments that differ from the class's defaults: what a parent set, and what is small now."""
        fresh = type(config)()
        for each in (config, fresh):
            each.allow_global_per_layer_attribute_access = True
        kept = kept_layers(config)
        stages = {v for name, values in _lists(config).items() if WIDTHS.fullmatch(name) for v in values}
        changed: dict[str, object] = {}
        for name, default in _declared(config, fresh).items():
            old = getattr(config, name, None)
            if isinstance(old, PretrainedConfig):
                changed[name] = self.config(old, hints.get(name) or {})
                continue
            new = self.value(name, old, kept)
            if type(old) is int and old in stages and small(name, 10**6) == WIDTH:
                new = self.widths.get(old, new)
            derived = default in {None, "auto"} and not isinstance(new, list)
            if (new != old and not derived) or old != getattr(fresh, name, None):
                changed[name] = new
        if kept.field:
            changed[kept.field] = len(kept.layers)
        _equal_heads(changed, changed, vars(config))
        if overrides(config):
            layers = small_overrides(config, kept)
            for position, made in layers.items():
                _equal_heads(made, changed | made, vars(config) | overrides(config)[kept.layers[position]])
            changed["per_layer_config"] = layers
        return changed

    def value(self, name: str, old: object, kept: Kept) -> object:
        """The small value of one field."""
        if TOKEN.fullmatch(name):
            return self.tokens(old)
        if type(old) is int:
            return small(name, old)
        if name == "backbone" and isinstance(old, str):
            return "test_resnet"  # of timm: any of its networks will do
        if not isinstance(old, list | tuple) or not old:
            return old
        values = list(old)
        shortened = kept.shortened(name, values)
        if shortened is not None:
            return shortened
        return small_list(name, values, self.widths) if all(type(v) is int for v in values) else values

    def tokens(self, old: object) -> object:
        """An id below the vocabulary's size, counted down from its end; ids that are small already stay."""
        if isinstance(old, list):
            return [self.tokens(each) for each in old]
        if type(old) is not int or old < VOCABULARY:
            return old
        return self.ids.setdefault(old, VOCABULARY - 1 - len(self.ids))


def _tree(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    """A configuration and all its sub-configurations."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PretrainedConfig):
            yield from _tree(value)


def _lists(config: PretrainedConfig) -> dict[str, list[int]]:
    """The fields that hold several whole numbers."""
    lists = {name: list(v) for name, v in vars(config).items() if isinstance(v, list | tuple) and v}
    return {name: v for name, v in lists.items() if all(type(number) is int for number in v)}


def _images(config: PretrainedConfig, changed: dict[str, object]) -> None:
    """Small images, and what goes with them: windows, patches, narrow first stages."""
    size, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    staged = isinstance(getattr(config, "depths", None), list | tuple)
    for name in ("embed_dim", "patch_embeds_hidden_size"):
        if staged and type(changed.get(name)) is int:
            changed[name] = STAGE
    if staged and type(getattr(config, "window_size", None)) is int:
        changed["window_size"] = 2
    if getattr(config, "downsampling_ratios", None) and hasattr(config, "encoder_hidden_size"):
        changed["encoder_hidden_size"] = STAGE // 2
    side = patch if type(patch) is int else 16
    new = pixels(side, staged)
    if type(size) is int:
        changed["image_size"] = new
        if getattr(config, "num_patches", None) == (size // side) ** 2:
            changed["num_patches"] = (new // side) ** 2
    elif isinstance(size, list | tuple):
        changed["image_size"] = [min(each, new) for each in size]


def _rotary(config: PretrainedConfig, changed: dict[str, object]) -> None:
    """Sections of multimodal rotary positions, in the layers' own parameters if they have some."""
    if "mrope_section" not in getattr(type(config), "ignore_keys_at_rope_validation", ()):
        return
    rope = config.rope_parameters or {}
    by_kind = any(isinstance(value, dict) for value in rope.values())
    made = {kind: sections(value) for kind, value in rope.items()} if by_kind else sections(rope)
    changed["rope_parameters"] = made


def _equal_heads(made: dict[str, object], new: Mapping[str, object], old: Mapping[str, object]) -> None:
    """As many keys and values as queries where that was so."""
    for keys in [name for name in made if "key_value_heads" in name]:
        queries = keys.replace("key_value", "attention")
        if old.get(keys) is not None and old.get(keys) == old.get(queries) and queries in new:
            made[keys] = new[queries]


def _declared(config: PretrainedConfig, fresh: PretrainedConfig) -> dict[str, object]:
    """Field -> default of a configuration, but for what all of them share; what a parent added counts too."""
    shared = {f.name for f in dataclasses.fields(PretrainedConfig)}
    own = {f.name: f.default for f in dataclasses.fields(config) if f.init}
    added = {name: ... for name in set(vars(config)) - set(vars(fresh)) if not name.startswith("_")}
    if getattr(config, "_out_indices", None) and "out_indices" not in own:
        added["out_indices"] = ...
    return {name: default for name, default in (added | own).items() if name not in shared}
