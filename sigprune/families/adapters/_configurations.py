"""Configurations of transformers models: of a type or a checkpoint, with changed fields; their classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from sigprune.base.errors import BadInput, UnknownName, one_line
from sigprune.base.family import Plain
from sigprune.families.adapters._sources import plain_name, split_source

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


def configured(source: str, args: Mapping[str, Plain]) -> tuple[PretrainedConfig, str | None]:
    """The configuration with the fields that were given, and the task."""
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
            return type(base)(**fields), task  # fields that are derived from others follow them
        return type(base).from_dict(_merged(base.to_dict(), fields)), task
    except BadInput:
        raise
    except Exception as error:  # strict configurations, connections and files raise errors of three libraries
        raise BadInput(f"transformers: {source}: {one_line(error)}") from error


def _read(source: str) -> PretrainedConfig:
    from transformers import AutoConfig

    place, revision = split_source(source)
    return AutoConfig.from_pretrained(place, revision=revision or "main", trust_remote_code=False)


def _check_fields(config: PretrainedConfig, fields: Mapping[str, Plain]) -> None:
    known = _ALWAYS | set(config.to_dict()) | set(config.attribute_map)
    for field in fields:
        if field not in known:
            raise UnknownName(f"field of {type(config).__name__}", field, known)


def _merged(base: Mapping[str, Plain], fields: Mapping[str, Plain]) -> dict[str, Plain]:
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
    import transformers

    if task is None and config.architectures:
        kind = getattr(transformers, config.architectures[0], None)
        if kind is None:
            raise BadInput(f"transformers {transformers.__version__} has no class {config.architectures[0]}")
        return cast("type[PreTrainedModel]", kind)
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
