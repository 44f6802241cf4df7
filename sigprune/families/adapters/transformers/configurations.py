"""Configurations of transformers models: of a type or a checkpoint, with changed fields; their classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from sigprune.base.errors import BadInput, UnknownName, one_line, suggestion
from sigprune.base.registry import JsonValue
from sigprune.families.adapters._references import check_references, self_contained
from sigprune.sources.files import place_of, plain_name, read_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

TASKS = {
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
    "text-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "causal-lm": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "masked-lm": "MODEL_FOR_MASKED_LM_MAPPING",
    "base": "MODEL_MAPPING",
}
_DEFAULT_TASKS = ("image-classification", "text-classification", "base")
_ALWAYS = frozenset({"num_labels", "dtype", "attn_implementation"})


def configured(source: str, args: Mapping[str, JsonValue]) -> tuple[PretrainedConfig, str | None]:
    """The configuration with the fields that were given, and the task.

    Raises:
        UnknownName: an unknown model type, field or task.
        BadInput: a value that the configuration does not take; a file that cannot be read, or that names
            models, code or weights elsewhere.
    """
    from transformers import CONFIG_MAPPING

    fields = dict(args)
    task = fields.pop("task", None)
    if not (task is None or isinstance(task, str)) or (task and task not in TASKS):
        raise UnknownName("task", str(task), TASKS)
    if plain_name(source) and source not in CONFIG_MAPPING:
        raise UnknownName("transformers model type", source, CONFIG_MAPPING.keys())
    try:
        base = CONFIG_MAPPING[source]() if plain_name(source) else _read(source)
        _check_fields(base, fields)
        if plain_name(source):
            wanted = self_contained({**fields, "model_type": source}, source) | _chosen(fields)
            del wanted["model_type"]
            config = type(base)(**wanted)  # fields that are derived from others follow them
        else:
            wanted = self_contained(_merged(base.to_dict(), fields), place_of(source)) | _chosen(fields)
            config = _named(type(base).from_dict(wanted), source, code=vars(base).get("auto_map"))
    except BadInput:
        raise
    except Exception as error:  # strict configurations, connections and files raise errors of three libraries
        raise BadInput(f"{place_of(source)}: transformers cannot read it: {one_line(error)}") from error
    check_references(config.to_dict() | _chosen(fields), place_of(source))
    return config, task


def _read(source: str) -> PretrainedConfig:
    """From the ``config.json`` alone: transformers' own reading follows what the file names."""
    from transformers import CONFIG_MAPPING

    fields = {key: _with_infinities(value) for key, value in read_config(source).items()}
    kind = _known_type(source, fields)
    config = CONFIG_MAPPING[kind].from_dict(self_contained(fields, place_of(source)))
    return _named(config, source, code=fields.get("auto_map"))


def _with_infinities(value: JsonValue) -> JsonValue:
    """Transformers writes ``{"__float__": "Infinity"}`` for a number that JSON does not have."""
    if isinstance(value, dict):
        if value.keys() == {"__float__"} and value["__float__"] in {"Infinity", "-Infinity", "NaN"}:
            return float(str(value["__float__"]))
        return {key: _with_infinities(inside) for key, inside in value.items()}
    return [_with_infinities(inside) for inside in value] if isinstance(value, list) else value


def _named(config: PretrainedConfig, source: str, *, code: object) -> PretrainedConfig:
    """With what the user calls it, rather than a folder of the cache; whether it names code is told once."""
    config.name_or_path = place_of(source)
    if code is not None:
        config.auto_map = code
    return config


def forget_code_(config: PretrainedConfig) -> None:
    """Before a model is built: transformers would ask whether to run what a configuration names."""
    vars(config).pop("auto_map", None)


def _known_type(source: str, config: Mapping[str, JsonValue]) -> str:
    """Without a type that it knows, transformers guesses one from the path, or asks whether to run code."""
    from transformers import CONFIG_MAPPING, __version__

    place = place_of(source)
    kind = config.get("model_type", "timm_wrapper" if "pretrained_cfg" in config else None)
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return kind
    if "auto_map" in config:
        raise BadInput(
            f"{place}: its model_type {kind!r} is code of the repository's own (auto_map), which sigprune "
            "never runs; make the model yourself and pass it to sigprune.describe"
        )
    raise BadInput(
        f"{place}: its config.json names the model_type {kind!r}, which transformers {__version__} does not "
        f"know; {suggestion(str(kind), CONFIG_MAPPING.keys())}"
    )


def _chosen(fields: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """How attention and experts are computed, which the caller may choose, and a folder may not."""
    return {key: value for key, value in fields.items() if key.endswith("_implementation")}


def _check_fields(config: PretrainedConfig, fields: Mapping[str, JsonValue]) -> None:
    known = _ALWAYS | set(config.to_dict()) | set(config.attribute_map)
    for field in fields:
        if field not in known:
            raise UnknownName(f"field of {type(config).__name__}", field, known)


def _merged(base: Mapping[str, JsonValue], fields: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The fields over the base, sub-configurations field by field."""
    merged = dict(base)
    for key, value in fields.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    if "num_labels" in fields:  # these two say the number of labels as well, and would win
        merged.pop("id2label", None)
        merged.pop("label2id", None)
    return merged


def class_for(config: PretrainedConfig, task: str | None) -> type[PreTrainedModel]:
    """The class of a configuration's models for a task.

    Args:
        config: what ``config.json`` says, or the defaults of a model type.
        task: a key of :data:`TASKS`; None: the class that the configuration names, else the first of the
            default tasks that there is a class for.

    Raises:
        BadInput: transformers has no such class.
    """
    import transformers

    if task is None and config.architectures:
        return _own_class(config)
    able = {name: getattr(transformers, mapping) for name, mapping in TASKS.items()}
    able = {name: mapping for name, mapping in able.items() if type(config) in mapping}
    for name in (task,) if task else _DEFAULT_TASKS:
        if name in able:
            try:
                found = able[name][type(config)]
            except ValueError as error:  # listed, but not exported
                raise BadInput(f"{config.model_type}: {one_line(error)}") from error
            return cast("type[PreTrainedModel]", found[0] if isinstance(found, tuple) else found)
    wanted = f"for {task}" if task else "that sigprune can open by type"
    raise BadInput(f"{config.model_type} has no model {wanted}; its tasks: {', '.join(able) or 'none'}")


def _own_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class that the configuration names, if it is a model of transformers itself."""
    import transformers

    names = config.architectures
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise BadInput(
            f"{config.name_or_path or config.model_type}: expected a list of class names as architectures, "
            f"got {names!r:.100}"
        )
    name = names[0]
    kind = getattr(transformers, str(name), None)
    if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
        return kind
    own = " (code of the repository's own, auto_map, is never run)" if "auto_map" in vars(config) else ""
    raise BadInput(
        f"{config.name_or_path or config.model_type}: transformers {transformers.__version__} has no class "
        f"{name}{own}; set the task to one of {', '.join(TASKS)}"
    )
