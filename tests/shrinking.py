"""Small but structurally complete models of every type in transformers, by general rules and a few hints."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml
from transformers import CONFIG_MAPPING, AutoModel, PretrainedConfig, PreTrainedModel

from sigprune.base.seeds import global_stream
from tests.shrinking_rules import INDICES, STAGE, TOKEN, VOCABULARY, small, small_list

_FILE = yaml.safe_load((Path(__file__).parent / "shrinking_hints.yaml").read_text())
HINTS: Mapping[str, Mapping[str, object]] = _FILE["hints"]
LEFT_OUT: Mapping[str, str] = _FILE["left_out"]


def shrunk(model_type: str) -> PreTrainedModel:
    """The base model of a type with seeded weights, on the CPU, in evaluation mode as transformers leaves it."""
    with global_stream(0, "shrunk", model_type):
        return AutoModel.from_config(small_config(model_type))


def small_config(model_type: str) -> PretrainedConfig:
    """The default configuration with every size made small, every kind of layer kept."""
    return _Shrinker().config(CONFIG_MAPPING[model_type](), HINTS.get(model_type) or {})


class _Shrinker:
    """One model's worth of renumbered token ids: the same id becomes the same small id in all towers."""

    def __init__(self) -> None:
        self.ids: dict[int, int] = {}

    def config(self, config: PretrainedConfig, hints: Mapping[str, object]) -> PretrainedConfig:
        """A new configuration of the same class; fields that are derived from others are derived anew."""
        fresh = type(config)()
        layers = _layers(config)
        changed: dict[str, object] = {}
        for name, default in _declared(type(config)).items():
            old = getattr(config, name, None)
            hint = hints.get(name)
            if isinstance(old, PretrainedConfig):
                changed[name] = self.config(old, hint if isinstance(hint, dict) else {})
                continue
            new = self.value(name, old, layers)
            derived = default is None and not isinstance(new, list)
            if (new != old and not derived) or old != getattr(fresh, name, None):
                changed[name] = new
        if layers:
            changed[_depth_name(config)] = len(layers)
        _images(config, changed)
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
        return small_list(name, old) if numbers else old


class _Layers(list[int]):
    """The layers that stay, out of ``span``."""

    span: int = 0


def _span(layers: list[int]) -> int:
    return layers.span if isinstance(layers, _Layers) else 0


def _depth_name(config: PretrainedConfig) -> str:
    """What the configuration calls its number of layers."""
    for name in ("num_hidden_layers", "depth", "num_layers", "encoder_layers", "n_layers"):
        own = config.attribute_map.get(name, name)
        if isinstance(getattr(config, own, None), int) and own in _declared(type(config)):
            return own
    return ""


def _layers(config: PretrainedConfig) -> list[int]:
    """The first layer of every kind (at least two layers), by all lists that say something of each layer."""
    name = _depth_name(config)
    if not name:
        return []
    span = getattr(config, name)
    kinds: list[list[object]] = [[] for _ in range(span)]
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


def _images(config: PretrainedConfig, changed: dict[str, object]) -> None:
    """Images of two to four patches a side; up to 64 pixels where a network has stages."""
    size, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if not isinstance(size, int):
        return
    side = patch if isinstance(patch, int) else 16
    stages = isinstance(getattr(config, "depths", None), list)
    changed["image_size"] = 64 if stages else side * max(1, min(4, 64 // side))
    count = getattr(config, "num_patches", None)
    if isinstance(count, int) and isinstance(patch, int) and count == (size // patch) ** 2:
        changed["num_patches"] = (changed["image_size"] // patch) ** 2
    if stages and "embed_dim" in changed:
        changed["embed_dim"] = STAGE
    if stages and isinstance(getattr(config, "window_size", None), int):
        changed["window_size"] = 2


def _declared(kind: type[PretrainedConfig]) -> dict[str, object]:
    """Field -> default of the configuration's own class and its bases, but for what all of them share."""
    shared = {f.name for f in dataclasses.fields(PretrainedConfig)}
    own = {f.name: f.default for f in dataclasses.fields(kind) if f.init}
    if "__init__" in vars(kind) and not own:
        own = {p.name: p.default for p in inspect.signature(kind).parameters.values()}
    return {name: default for name, default in own.items() if name not in shared}


def types() -> Iterable[str]:
    """Every type of MODEL_MAPPING."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return tuple(MODEL_MAPPING_NAMES)
