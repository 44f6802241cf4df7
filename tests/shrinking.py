"""Small but structurally complete models of every type in transformers, by general rules and a few hints."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import transformers
import yaml
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from sigprune.base.seeds import global_stream
from tests.shrinking_rules import (
    INDICES,
    STAGE,
    TOKEN,
    VOCABULARY,
    WIDTH,
    WIDTHS,
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
        hints = {**(HINTS.get(config.model_type) or {}), **hints}
        fresh = type(config)()
        for each in (config, fresh):
            each.allow_global_per_layer_attribute_access = True
        layers = _layers(config)
        stages = {
            width for name, values in _lists(config).items() if WIDTHS.fullmatch(name) for width in values
        }
        changed: dict[str, object] = {}
        for name, default in _declared(config, fresh).items():
            old = getattr(config, name, None)
            hint = hints.get(name)
            if isinstance(old, PretrainedConfig):
                changed[name] = self.config(old, hint if isinstance(hint, dict) else {})
                continue
            new = self.value(name, old, layers)
            if isinstance(old, int) and old in stages and small(name, 10**6) == WIDTH:
                new = self.widths.get(old, new)
            derived = default in {None, "auto"} and not isinstance(new, list)
            if (new != old and not derived) or old != getattr(fresh, name, None):
                changed[name] = new
        if layers:
            changed[_depth_name(config)] = len(layers)
        _images(config, changed)
        _per_layer(config, layers, changed)
        _rotary(config, changed)
        _equal_heads(config, changed)
        nested = {name for name, value in changed.items() if isinstance(value, PretrainedConfig)}
        changed |= {name: value for name, value in hints.items() if name not in nested}
        return type(config)(**changed)

    def value(self, name: str, old: object, layers: list[int]) -> object:
        """The small value of one field."""
        if TOKEN.fullmatch(name):
            return self.tokens(old)
        if isinstance(old, bool):
            return old
        if isinstance(old, int):
            return small(name, old)
        if name == "backbone" and isinstance(old, str):
            return "test_resnet"
        if isinstance(old, list | tuple) and old:
            return self.items(name, list(old), layers)
        return old

    def tokens(self, old: object) -> object:
        """An id below the vocabulary's size, counted down from its end."""
        if isinstance(old, list):
            return [self.tokens(o) for o in old]
        if not isinstance(old, int) or old < VOCABULARY:
            return old
        return self.ids.setdefault(old, VOCABULARY - 1 - len(self.ids))

    def items(self, name: str, old: list, layers: list[int]) -> list:
        """One value per layer: those of the layers that stay. Indices of layers: where these are now."""
        numbers = all(isinstance(v, int) and not isinstance(v, bool) for v in old)
        if layers and len(old) == _span(layers):
            kept = [old[i] for i in layers]
            return [small(name, v) for v in kept] if numbers else kept
        if layers and numbers and INDICES.fullmatch(name):
            return [position for position, layer in enumerate(layers) if layer in old]
        return small_list(name, old, self.widths) if numbers else old


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


class _Layers(list[int]):
    """The layers that stay, out of ``span``."""

    span: int = 0


def _span(layers: list[int]) -> int:
    return layers.span if isinstance(layers, _Layers) else 0


def _depth_name(config: PretrainedConfig) -> str:
    """What the configuration calls its number of layers."""
    for name in ("num_hidden_layers", "depth", "num_layers", "encoder_layers", "n_layers"):
        own = config.attribute_map.get(name, name)
        if isinstance(getattr(config, own, None), int) and own in _fields(config):
            return own
    return ""


def _layers(config: PretrainedConfig) -> list[int]:
    """The first layer of every kind (at least two layers), by all lists that say something of each layer."""
    name = _depth_name(config)
    if not name:
        return []
    span = getattr(config, name)
    kinds: list[list[object]] = [[] for _ in range(span)]
    for layer, overrides in _overrides(config).items():
        kinds[layer].append(str(overrides))
    for key, value in vars(config).items():
        if key.startswith("_") or not isinstance(value, list | tuple) or not value:
            continue
        if len(value) == span and len({str(v) for v in value}) <= 6:
            for layer, entry in enumerate(value):
                kinds[layer].append(str(entry))
        elif INDICES.fullmatch(key) and all(isinstance(v, int) and v < span for v in value):
            for layer in range(span):
                kinds[layer].append(layer in value)
    first = {tuple(kind): layer for layer, kind in reversed(list(enumerate(kinds)))}
    chosen = set(first.values())
    chosen |= set([i for i in range(span) if i not in chosen][: max(0, 2 - len(chosen))])
    layers = _Layers(sorted(chosen))
    layers.span = span
    return layers


def _overrides(config: PretrainedConfig) -> Mapping[int, Mapping[str, object]]:
    """The fields that single layers override, by layer."""
    return config._heterogeneity_spec.per_layer_overrides if config.is_heterogeneous else {}


def _images(config: PretrainedConfig, changed: dict[str, object]) -> None:
    """Images of few patches a side, 32 to 64 pixels; 64 where a network has stages, which start narrow."""
    size, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    stages = isinstance(getattr(config, "depths", None), list | tuple)
    for name in ("embed_dim", "patch_embeds_hidden_size"):
        if stages and isinstance(changed.get(name), int):
            changed[name] = STAGE
    if getattr(config, "downsampling_ratios", None) and hasattr(config, "encoder_hidden_size"):
        changed["encoder_hidden_size"] = STAGE // 2
    if stages and isinstance(getattr(config, "window_size", None), int):
        changed["window_size"] = 2
    side = patch if isinstance(patch, int) else 16
    pixels = 64 if stages else side * max(min(4, 64 // side), math.ceil(32 / side))
    if isinstance(size, int):
        changed["image_size"] = pixels
        if getattr(config, "num_patches", None) == (size // side) ** 2:
            changed["num_patches"] = (pixels // side) ** 2
    elif isinstance(size, list | tuple):
        changed["image_size"] = [min(each, pixels) for each in size]


def _per_layer(config: PretrainedConfig, layers: list[int], changed: dict[str, object]) -> None:
    """What single layers override: the same fields, small, still different from the global ones."""
    overrides = _overrides(config)
    if not overrides:
        return
    made: dict[int, dict[str, object]] = {}
    for position, layer in enumerate(layers):
        made[position] = {}
        for name, value in overrides.get(layer, {}).items():
            number = isinstance(value, int) and not isinstance(value, bool)
            made[position][name] = small(name, value) if number else value
    changed["per_layer_config"] = {position: fields for position, fields in made.items() if fields}


def _equal_heads(config: PretrainedConfig, changed: dict[str, object]) -> None:
    """As many keys and values as queries where that is so by default."""
    whole = vars(config)
    layers = changed.get("per_layer_config")
    overridden = zip(layers.values(), _overrides(config).values(), strict=False) if layers else ()
    for made, old in ((changed, whole), *((made, whole | old) for made, old in overridden)):
        for keys in [name for name in made if "key_value_heads" in name]:
            queries = keys.replace("key_value", "attention")
            if old.get(keys) is not None and old.get(keys) == old.get(queries):
                made[keys] = made.get(queries, changed.get(queries, made[keys]))


def _rotary(config: PretrainedConfig, changed: dict[str, object]) -> None:
    """Sections of multimodal rotary positions, in the layers' own parameters if they have some."""
    if "mrope_section" not in getattr(type(config), "ignore_keys_at_rope_validation", ()):
        return
    rope = config.rope_parameters or {}
    nested = any(isinstance(value, dict) for value in rope.values())
    made = {kind: sections(value) for kind, value in rope.items()} if nested else sections(rope)
    changed["rope_parameters"] = made


def _declared(config: PretrainedConfig, fresh: PretrainedConfig) -> dict[str, object]:
    """Field -> default of a configuration, but for what all of them share; what a parent added counts too."""
    shared = {f.name for f in dataclasses.fields(PretrainedConfig)}
    own = {f.name: f.default for f in dataclasses.fields(config) if f.init}
    added = {name: ... for name in set(vars(config)) - set(vars(fresh)) if not name.startswith("_")}
    if getattr(config, "_out_indices", None) and "out_indices" not in own:
        added["out_indices"] = ...
    return {name: default for name, default in (added | own).items() if name not in shared}


def _fields(config: PretrainedConfig) -> set[str]:
    return {f.name for f in dataclasses.fields(config)}
