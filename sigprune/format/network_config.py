"""What of a ``config.json`` makes the network: the part that manifests repeat (docs/format.md, section 3).

The function from input tensors to output tensors is meant. What prepares inputs and reads outputs
(tokenizers, image processors, class names, generation settings) belongs to the user, who may edit it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from sigprune.base.canonical_json import read_object
from sigprune.base.errors import CheckpointError, TooLarge
from sigprune.base.registry import JsonValue
from sigprune.format.manifest import Manifest
from sigprune.format.names import CONFIG

_DESCRIPTIVE = frozenset({
    "_commit_hash", "_name_or_path", "dtype", "id2label", "label2id", "label_descriptions", "label_names",
    "num_features", "output_attentions", "output_hidden_states", "problem_type", "quantization_config",
    "return_dict", "torch_dtype", "transformers_version", "use_cache",
})  # fmt: skip
"""Names, versions, how files are stored (manifests have every dtype), and what is returned beside outputs."""

_PREPROCESSING = "pretrained_cfg"
"""timm's own account of inputs and origin; it takes the sizes in :data:`_SIZES` from there."""
_SIZES = frozenset({"fixed_input_size", "global_pool", "num_classes"})

_DEPTH = re.compile(r"layers?($|_)|depth|blocks|stages|repeats")
_COUNT = re.compile(r"num_|_num|labels")
MAX_COUNT = 2**20
"""Classes, heads, ...: configurations make lists of so many before any module is built."""


def max_modules(tensors: int) -> int:
    """Parameters, buffers and modules of a network whose files hold so many tensors, with much to spare."""
    return 20 * tensors + 10_000


def network_of(config: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """What of a configuration makes the network; infinities and NaN as transformers writes them.

    Example:
        >>> network_of({"model_type": "bert", "layer_norm_eps": 1e-12, "id2label": {"0": "no"}})
        {'model_type': 'bert', 'layer_norm_eps': 1e-12}
    """
    network: dict[str, JsonValue] = {}
    for key, value in config.items():
        if key in _DESCRIPTIVE:
            continue
        if key == _PREPROCESSING and isinstance(value, dict):
            sizes = {"input_size", *_SIZES} if value.get("fixed_input_size") is True else _SIZES
            network[key] = {own: _finite(value[own]) for own in value if own in sizes}
        elif isinstance(value, dict) and "model_type" in value:
            network[key] = network_of(value)  # a configuration inside: text_config, vision_config, ...
        else:
            network[key] = _finite(value)
    return network


def network_in(folder: Path) -> dict[str, JsonValue]:
    """The same of a folder's ``config.json``; empty if it has none.

    Raises:
        CheckpointError: it is damaged.
    """
    path = folder / CONFIG
    return network_of(read_object(path)) if path.is_file() else {}


def expect_network(folder: Path, manifest: Manifest) -> None:
    """Make sure that ``config.json``, if it is there, makes the network that the weights were written with.

    Manifests of schema 1 say nothing about it.

    Raises:
        CheckpointError: it says something else; names the first difference, and what to do.
    """
    path = folder / CONFIG
    if manifest.network is None or not path.is_file():
        return
    for key, written, found in _differences(dict(manifest.network), network_in(folder), ""):
        raise CheckpointError(
            f"{path}: {key}: the weights were written with {written}, got {found}; undo the edit, or, if it "
            f"is meant, write a folder with it: `sigprune convert {folder} NEW --accept-config`"
        )


def expect_counts(config: Mapping[str, JsonValue], tensors: int, place: object) -> None:
    """Make sure that no number of layers, classes, heads, ... is out of all proportion.

    Args:
        config: a configuration.
        tensors: names that the files have; there are at most :func:`max_modules` layers for them.
        place: what messages call the configuration.

    Raises:
        TooLarge: one is; names it.
    """
    for key, value in config.items():
        if isinstance(value, dict):
            expect_counts(value, tensors, f"{place}: {key}")
        deep = _DEPTH.search(key) is not None
        if deep or _COUNT.search(key):
            most = max_modules(tensors) if deep else MAX_COUNT
            for count in value if isinstance(value, list) else [value]:
                if isinstance(count, int | float) and count > most:
                    raise TooLarge(f"{place}: {key}: expected at most {most:,}, got {count!r:.40}")


def _finite(value: JsonValue) -> JsonValue:
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": {"inf": "Infinity", "-inf": "-Infinity"}.get(str(value), "NaN")}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return {key: _finite(each) for key, each in value.items()} if isinstance(value, dict) else value


def _differences(written: JsonValue, found: JsonValue, path: str) -> Iterator[tuple[str, str, str]]:
    """Where two values differ, and both in words; numbers are compared by value (1 is 1.0, and not true)."""
    if isinstance(written, dict) and isinstance(found, dict):
        for key in sorted(written.keys() | found.keys()):
            own = f"{path}.{key}" if path else key
            if key in written and key in found:
                yield from _differences(written[key], found[key], own)
            else:
                yield own, _word(written, key), _word(found, key)
    elif isinstance(written, list) and isinstance(found, list) and len(written) == len(found):
        for place, (one, other) in enumerate(zip(written, found, strict=True)):
            yield from _differences(one, other, f"{path}.{place}")
    elif written != found or isinstance(written, bool) != isinstance(found, bool):
        yield path, f"{written!r:.100}", f"{found!r:.100}"


def _word(values: Mapping[str, JsonValue], key: str) -> str:
    return f"{values[key]!r:.100}" if key in values else "nothing"
