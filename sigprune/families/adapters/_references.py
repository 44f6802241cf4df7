"""What a configuration may name: parameters of its architecture, and nothing that lies elsewhere.

A configuration is data from anybody. The libraries follow what it names: another repository as a backbone,
a checkpoint as an argument of timm, a kernel of the Hub for attention, code of its own. Opening a folder must
not do so. Arguments of timm are let through by name (parameters of the architecture's own file) and by type
(numbers, booleans, plain words); names of models may be those of timm's list alone.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import cast

from sigprune.base.errors import BadInput, suggestion
from sigprune.base.registry import JsonValue
from sigprune.format.index import KEY

_DEEPEST = 16
"""Levels of a configuration; sub-configurations of sub-configurations have 5."""

_WORD = re.compile(r"[\w.+-]{0,100}")
"""No path, URL or source has this form: they have one of these."""

_ELSEWHERE = re.compile(r"[/\\:]")

_ACROSS_FILES = frozenset({
    "bn_eps",
    "bn_momentum",
    "bn_tf",
    "channel_divisor",
    "channel_multiplier",
    "depth_multiplier",
    "experts_multiplier",
    "fix_stem_head",
    "global_pool",
    "group_size",
    "head_conv",
    "head_conv_bias",
    "img_size",
    "in_chans",
    "model_width",
    "norm_eps",
    "num_classes",
    "output_stride",
    "pad_type",
    "padding_same",
    "rw",
    "use_naflex",
})
"""Parameters that timm's functions take out before they call the class of the architecture."""

_NO_PARAMETERS = frozenset({"args", "cfg", "device", "dtype", "kwargs", "module", "self"})
"""What classes are given that says nothing of the architecture."""

_OF_BACKBONES = frozenset({"features_only", "freeze_batch_norm_2d", "num_channels", "out_indices"})
"""Fields of transformers' ``TimmBackboneConfig`` besides parameters of the architecture."""

_MODELS = ("architecture", "backbone")
"""Keys whose value names a model that transformers makes with timm."""

_ARGUMENTS = {"model_args": "architecture", "timm_kwargs": "backbone", "backbone_kwargs": "backbone"}
"""Keys whose value is passed on to timm, and the key of the model that it is for."""

_NOT_A_FOLDERS = frozenset({
    "_attn_implementation",
    "_commit_hash",
    "_experts_implementation",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "configuration_files",
    "experts_implementation",
    "name_or_path",
    "use_pretrained_backbone",
})
"""Keys that say where something came from, where code or other weights are, or how attention is computed
(some ways fetch a kernel): none of them says what the model is."""


def check_timm_args(
    architecture: str, args: Mapping[str, JsonValue], place: str, also: frozenset[str] = frozenset()
) -> None:
    """Make sure that arguments of timm are parameters of the architecture, and plain.

    Args:
        architecture: a name that timm has, with or without a tag.
        args: keyword arguments of ``timm.create_model``.
        place: what the message starts with.
        also: further names that may stand there.

    Raises:
        BadInput: an argument is another one (``pretrained``, ``checkpoint_path``, ``cache_dir``,
            ``features_only``, ...), or its value a path, a URL or something else than JSON's plain values.
    """
    known = _parameters(architecture.partition(".")[0]) | also
    for name, value in args.items():
        if name not in known:
            raise BadInput(
                f"{place}: {name!r} is no parameter of timm's {architecture}, and only those are passed on "
                f"(weights are asked for by pretrained alone); {suggestion(name, known)}"
            )
        if not _plain(value, _DEEPEST):
            raise BadInput(
                f"{place}: {name}: expected a number, a boolean or a plain word (no path, no URL), or lists "
                f"of such, got {str(value)[:80]!r}"
            )


def self_contained(config: Mapping[str, JsonValue], place: str) -> dict[str, JsonValue]:
    """A transformers configuration without what points elsewhere.

    A backbone that is named in the old way, which transformers looks up on the Hub, becomes the configuration
    of timm's model of that name.

    Raises:
        BadInput: it names a model of another repository or folder, or is nested too deeply.
    """
    return cast("dict[str, JsonValue]", _cleaned(config, place, 0))


def check_references(config: Mapping[str, JsonValue], place: str) -> None:
    """Make sure that building a transformers configuration follows no name out of it.

    Raises:
        BadInput: it names a model, a checkpoint or a kernel elsewhere, or gives timm other arguments than
            parameters of the architecture.
    """
    for node in _nodes(config, place):
        _check_models(node, place)
        for key, value in node.items():
            if str(key).endswith("_implementation") and "/" in str(value):  # labels have numbers as keys
                raise BadInput(f"{place}: {key}: expected one of the library's own, got {str(value)[:80]!r}")
        for key, model in _ARGUMENTS.items():
            args, name = node.get(key), node.get(model)
            if args and isinstance(name, str):
                _check_arguments(key, name, args, place)


def _check_arguments(key: str, model: str, args: JsonValue, place: str) -> None:
    if not isinstance(args, dict):
        raise BadInput(f"{place}: {key}: expected an object, got {type(args).__name__}")
    also = frozenset() if key == "model_args" else _OF_BACKBONES
    check_timm_args(model, args, f"{place}: {key}", also)


def foreign_storage(config: Mapping[str, JsonValue], place: str) -> str | None:
    """How any part of a configuration says that weights are stored, if neither plainly nor by sigprune."""
    for node in _nodes(config, place):
        stored = node.get("quantization_config")
        if stored and not (isinstance(stored, dict) and stored.get("quant_method") == KEY):
            return str(stored.get("quant_method")) if isinstance(stored, dict) else str(stored)
    return None


def _nodes(config: Mapping[str, JsonValue], place: str) -> list[Mapping[str, JsonValue]]:
    """The configuration and all objects in it."""
    nodes: list[Mapping[str, JsonValue]] = []
    level: list[JsonValue] = [dict(config)]
    for _ in range(_DEEPEST):
        nodes += [part for part in level if isinstance(part, dict)]
        level = [
            child
            for part in level
            if isinstance(part, dict | list)
            for child in (part.values() if isinstance(part, dict) else part)
            if isinstance(child, dict | list)
        ]
    if level:
        raise BadInput(f"{place}: its config.json is nested more than {_DEEPEST} levels deep")
    return nodes


def _cleaned(value: JsonValue | Mapping[str, JsonValue], place: str, depth: int) -> JsonValue:
    if depth > _DEEPEST:
        raise BadInput(f"{place}: its config.json is nested more than {_DEEPEST} levels deep")
    if isinstance(value, list):
        return [_cleaned(one, place, depth + 1) for one in value]
    if not isinstance(value, Mapping):
        return value
    _check_models(value, place)
    return {
        key: _cleaned(one, place, depth + 1)
        for key, one in _backbone_configured(value, place).items()
        if key not in _NOT_A_FOLDERS
    }


def _check_models(node: Mapping[str, JsonValue], place: str) -> None:
    import timm

    for key in _MODELS:
        name = node.get(key)
        if isinstance(name, str) and _ELSEWHERE.search(name):
            raise BadInput(
                f"{place}: its config.json names another model ({key}: {name[:80]!r}), and only what lies in "
                "it is read; expected a name that timm has, or the configuration of the backbone itself "
                "(backbone_config): open it with its library and save it again"
            )
        wrapped = node.get("model_type") in {"timm_wrapper", "timm_backbone"} or "model_args" in node
        if isinstance(name, str) and wrapped and not timm.is_model(name.partition(".")[0]):
            raise BadInput(
                f"{place}: its config.json names the architecture {name!r}, which timm {timm.__version__} "
                f"does not know; {suggestion(name, timm.list_models())}"
            )


def _backbone_configured(node: Mapping[str, JsonValue], place: str) -> dict[str, JsonValue]:
    """The node; a backbone by name becomes one by configuration where transformers would ask the Hub."""
    fields, kind = dict(node), node.get("model_type")
    if not isinstance(fields.get("backbone"), str) or kind == "timm_backbone":
        return fields
    if fields.get("backbone_config") is not None:
        del fields["backbone"]
        return fields
    asks = not fields.get("use_timm_backbone", True) or bool(fields.get("backbone_kwargs"))
    if not asks and isinstance(kind, str) and _timm_by_default(kind):
        return fields
    backbone = {"model_type": "timm_backbone", "backbone": fields.pop("backbone")}
    _check_models(backbone, place)
    given = fields.pop("backbone_kwargs", None) or {}
    _check_arguments("backbone_kwargs", str(backbone["backbone"]), given, place)
    fields["backbone_config"] = {**cast("dict[str, JsonValue]", given), **backbone}
    fields.pop("use_timm_backbone", None)
    return fields


@cache
def _timm_by_default(kind: str) -> bool:
    """Whether a model type takes the name of a backbone for one of timm's, without asking."""
    from transformers import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        return False
    backbone = vars(CONFIG_MAPPING[kind]()).get("backbone_config")
    return getattr(backbone, "model_type", None) == "timm_backbone"


@cache
def _parameters(architecture: str) -> frozenset[str]:
    """Parameters of the classes in the file of an architecture: its model, its blocks, its configurations."""
    from timm.models import model_entrypoint
    from torch import nn

    file = sys.modules[model_entrypoint(architecture).__module__]
    classes = [kind for kind in vars(file).values() if inspect.isclass(kind)]
    own = [kind for kind in classes if issubclass(kind, nn.Module) or is_dataclass(kind)]
    names = {name for kind in own for name in inspect.signature(kind).parameters}
    return frozenset(names) - _NO_PARAMETERS | _ACROSS_FILES


def _plain(value: JsonValue, depth: int) -> bool:
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    if isinstance(value, list | tuple):
        return depth > 0 and all(_plain(one, depth - 1) for one in value)
    if isinstance(value, dict):
        return depth > 0 and all(_plain(key, 0) and _plain(one, depth - 1) for key, one in value.items())
    return value is None or isinstance(value, bool | int | float)
