"""Which layers of a configuration stay, so that every kind of layer is still there."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from transformers import PretrainedConfig

from tests.support.shrinking_rules import small

_DEPTHS = ("num_hidden_layers", "depth", "num_layers", "encoder_layers", "n_layers")
_INDICES = re.compile(r".*(indexes|indices|idxs?|_ids|layers)$")
_KINDS = 6
"""A list with more different entries than this does not name kinds of layers."""


@dataclass(frozen=True)
class Kept:
    """The layers that stay.

    Attributes:
        field: what the configuration calls its number of layers; empty if it has none.
        span: that number.
        layers: the indices of the layers that stay.
    """

    field: str = ""
    span: int = 0
    layers: tuple[int, ...] = ()

    def shortened(self, name: str, values: list) -> list | None:
        """A list with one value per layer, or with indices of layers, for the layers that stay; else None."""
        if not self.layers:
            return None
        if len(values) == self.span:
            kept = [values[layer] for layer in self.layers]
            return [small(name, value) if type(value) is int else value for value in kept]
        if _indices(name, values):
            return [position for position, layer in enumerate(self.layers) if layer in values]
        return None


def kept_layers(config: PretrainedConfig) -> Kept:
    """The first layer of every kind, at least two, by all fields that say something of single layers."""
    field = _depth_field(config)
    if not field:
        return Kept()
    span = getattr(config, field)
    kinds: list[list[str]] = [[] for _ in range(span)]
    for layer, fields in overrides(config).items():
        kinds[layer].append(str(fields))
    for entries in _per_layer_entries(config, span):
        for kind, entry in zip(kinds, entries, strict=True):
            kind.append(str(entry))
    first = {tuple(kind): layer for layer, kind in reversed(list(enumerate(kinds)))}
    chosen = set(first.values())
    others = [layer for layer in range(span) if layer not in chosen]
    chosen |= set(others[: max(0, 2 - len(chosen))])
    return Kept(field, span, tuple(sorted(chosen)))


def overrides(config: PretrainedConfig) -> Mapping[int, Mapping[str, object]]:
    """The fields that single layers override, by layer."""
    spec = getattr(config, "_heterogeneity_spec", None)  # older transformers have none
    return {} if spec is None else spec.per_layer_overrides


def small_overrides(config: PretrainedConfig, kept: Kept) -> dict[int, dict[str, object]]:
    """The same fields, small, by the new indices of the layers that stay."""
    old = overrides(config)
    return {
        position: {name: small(name, v) if type(v) is int else v for name, v in old[layer].items()}
        for position, layer in enumerate(kept.layers)
        if layer in old
    }


def _per_layer_entries(config: PretrainedConfig, span: int) -> Iterable[list]:
    """Lists with one entry per layer, and for lists of indices whether each layer is among them."""
    for name, value in vars(config).items():
        if name.startswith("_") or not isinstance(value, list | tuple) or not value:
            continue
        if len(value) == span and len({str(entry) for entry in value}) <= _KINDS:
            yield list(value)
        elif _indices(name, value) and max(value) < span:
            yield [layer in value for layer in range(span)]


def _indices(name: str, values: list | tuple) -> bool:
    return _INDICES.fullmatch(name) is not None and all(type(value) is int for value in values)


def _depth_field(config: PretrainedConfig) -> str:
    fields = {f.name for f in dataclasses.fields(config)}
    for name in _DEPTHS:
        own = config.attribute_map.get(name, name)
        if own in fields and isinstance(getattr(config, own, None), int):
            return own
    return ""
