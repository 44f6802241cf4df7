"""Models of transformers: a model type with any configuration, Hub repositories and local folders."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from sigprune.base.errors import BadInput, CheckpointError, one_line
from sigprune.base.registry import JsonValue
from sigprune.base.rng import global_stream
from sigprune.families.adapters._image_files import data_config, normalisation_in, write_processor
from sigprune.families.adapters._module_tree.walk import paths_of, survey
from sigprune.families.adapters._references import foreign_storage
from sigprune.families.adapters._unfilled import unfilled
from sigprune.families.adapters.transformers.configurations import class_for, configured, forget_code_
from sigprune.families.adapters.transformers.inputs import example_of, input_name
from sigprune.families.adapters.transformers.kernels import portable
from sigprune.families.adapters.transformers.outputs import read_output
from sigprune.families.adapters.transformers.placeholders import placeholders
from sigprune.families.adapters.transformers.processor_files import copy_processor_files
from sigprune.format.index import KEY
from sigprune.format.manifest import SCHEMA
from sigprune.format.names import CONFIG, PROCESSOR
from sigprune.sources.files import (
    HUB,
    folder_of,
    place_of,
    plain_name,
    read_config,
    unfit,
    weights_of,
)
from sigprune.sources.hub_client import fetch
from sigprune.sources.local_files import file_in
from sigprune.values.batch import Batch
from sigprune.values.origin import is_remembered, other_classes, remember_origin_, remember_replaced_
from sigprune.values.preprocessing import ImageDefaults, Normalisation, Preprocessing
from sigprune.values.view import View, readonly

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

SHARDED = True
_GENERATION, _ADAPTER = "generation_config.json", "adapter_config.json"
"""Files that ``from_pretrained`` looks for beside the configuration."""
_WRAPPER = "timm_wrapper"
"""The type of timm's models in transformers."""


def accepts(module: nn.Module) -> bool:
    """Whether it is a ``PreTrainedModel``; imports nothing."""
    bases = {(kind.__module__, kind.__name__) for kind in type(module).__mro__}
    return ("transformers.modeling_utils", "PreTrainedModel") in bases


def names() -> Sequence[str]:
    """Every model type that transformers knows."""
    from transformers import CONFIG_MAPPING

    return tuple(CONFIG_MAPPING.keys())


def build(architecture: str, args: Mapping[str, JsonValue]) -> nn.Module:
    """A model type with fresh weights from torch's global generators.

    Args:
        architecture: a model type such as ``bert``, at its default configuration; or
            ``hf-hub:user/repo[@revision]`` or ``local-dir:folder`` for the configuration of a checkpoint.
        args: fields of the configuration, by name (a mapping for a sub-configuration), and ``task``:
            ``image-classification``, ``text-classification``, ``causal-lm``, ``masked-lm`` or ``base``.
            Without a task: the class that a checkpoint's configuration names; for a model type the first of
            image classification, text classification and base that it has.

    Raises:
        UnknownName: an unknown model type, field or task.
        BadInput: a value that the configuration does not take, or a repository that cannot be read.
    """
    config, task = configured(architecture, args)
    kind = class_for(config, task)
    try:
        return cast(nn.Module, _fresh(kind, config))
    except Exception as error:  # whatever a model's constructor raises for sizes that do not fit
        raise BadInput(
            f"transformers cannot build {place_of(architecture)} from {dict(args)}: {one_line(error)}"
        ) from error


def build_pretrained(hub_id: str, revision: str | None, args: Mapping[str, JsonValue]) -> nn.Module:
    """A checkpoint's model with its weights, from safetensors only: a pickle is never read.

    Args:
        hub_id: ``user/repo``, ``hf-hub:user/repo``, or ``local-dir:folder``.
        revision: branch, tag or commit of a repository.
        args: as in :func:`build`; with ``num_labels`` a classifier of another size is drawn afresh.

    Raises:
        UnknownName: an unknown field or task.
        BadInput: there are no such weights, or they cannot be fetched.
    """
    from transformers import PreTrainedModel

    if plain_name(hub_id) and "/" not in hub_id:
        raise BadInput(
            f"transformers:{hub_id} is a model type and has no weights; name a checkpoint (user/repo), "
            "or leave pretrained out"
        )
    source = f"{HUB}{hub_id}" if plain_name(hub_id) else hub_id
    source = f"{source}@{revision}" if revision else source
    _expect_plain_weights(source)
    (own, _), (config, task) = configured(source, {}), configured(source, args)
    kind, folder = class_for(config, task), folder_of(source)
    _forget_packing(config)  # the weights are the dense ones
    forget_code_(config)
    weights_of(source, folder, named=vars(own).get("transformers_weights"), sharded=True)
    file_in(folder, _GENERATION)
    options = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
    try:
        with _silent():
            # of the base: classes that override it read more (a pickle of voices), or another model (timm's)
            load = PreTrainedModel.from_pretrained.__func__
            model, loading_info = load(kind, folder, config=config, **options)
    except Exception as error:  # file and shape errors of three libraries
        raise BadInput(f"{place_of(source)}: cannot load its weights: {one_line(error)}") from error
    model.config.name_or_path = model.name_or_path = place_of(source)  # not the folder of the cache
    fresh = {*loading_info["missing_keys"], *(name for name, *_ in loading_info["mismatched_keys"])}
    other_head = config.num_labels != own.num_labels or (
        task is not None and kind is not class_for(own, None)
    )
    _check_loaded(source, model, fresh, other_head)
    mismatch = f"the pretrained weights are those of {' or '.join(own.architectures or [kind.__name__])}"
    other_size = config.num_labels != own.num_labels
    reason = other_classes(own.num_labels, config.num_labels) if other_size else f"{mismatch}, without them"
    remember_replaced_(model, sorted(fresh), reason)
    return cast(nn.Module, model)


def _expect_plain_weights(source: str) -> None:
    """Make sure that the weights are in the folder, as plain tensors."""
    config, place = read_config(source), place_of(source)
    stored = foreign_storage(config, place)
    if stored is not None:
        raise BadInput(
            f"{place}: its weights are stored as {stored}; expected plain tensors: load and save the model "
            "dense first"
        )
    if (folder_of(source) / _ADAPTER).exists():
        raise BadInput(
            f"{place}: its {_ADAPTER} names the model that it adapts, which lies elsewhere; merge the "
            "adapter into the model with peft (merge_and_unload), and save that"
        )


@contextmanager
def _silent() -> Iterator[None]:
    """No table of fresh tensors in the log: those that matter are an error, the others were asked for."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    try:
        logging.set_verbosity_error()
        yield
    finally:
        logging.set_verbosity(before)


def _check_loaded(source: str, model: PreTrainedModel, fresh: set[str], other_head: bool) -> None:
    """Only a pooler, or a head that was asked for instead of the weights' own, may start afresh."""
    lost = {name for name in fresh if "pooler" not in name}
    if other_head:
        heads = tuple(f"{path}." for path in _heads(model))
        inside = f"{model.base_model_prefix}." if model.base_model is not model else ""
        lost = {n for n in lost if n.startswith(inside) and not (heads and n.startswith(heads))}
    if lost:
        raise unfit(source, f"{len(lost)} tensors are missing there or have another shape, first {min(lost)}")


def describe(module: nn.Module) -> View:
    """The view of a transformers model; runs only towers whose rows stand in a text, once, to count them.

    The output read is the logits of a model with a head (for language models one row per token). ``embed``
    looks ids up with the model's current embeddings.
    """
    model = cast("PreTrainedModel", module)
    if not is_remembered(module) and any(_was_loaded(p) for p in module.parameters()):
        remember_origin_(module, "pretrained")
    found = survey(module, _heads(model))
    parameter = next(module.parameters())
    view = View(
        module=module,
        library="transformers",
        architecture=model.config.model_type,
        weights=tuple(found.weights),
        skipped=readonly(found.skipped),
        gates=tuple(found.gates),
        example=Batch({}),
        input_name=input_name(model),
        read_output=read_output,
        embed=_embedder(model),
        prunable=found.prunable,
        portable=portable(model),
        placeholders=placeholders(model.config.to_dict()),
    )
    with view.eval_mode(), torch.no_grad(), global_stream(0, "example"):
        example = example_of(model)
    return replace(view, example=example.to(parameter.device, parameter.dtype))


def _was_loaded(parameter: nn.Parameter) -> bool:
    """Whether ``from_pretrained`` filled it: transformers marks what its initialisers must leave alone."""
    return vars(parameter).get("_is_hf_initialized") is True


def image_defaults(module: nn.Module, *, pretrained: bool) -> ImageDefaults:
    """What its image processor does; the normalisation that the checkpoint states which it was opened from.

    Raises:
        BadInput: the checkpoint's repository cannot be asked.
    """
    config = cast("PreTrainedModel", module).config
    if config.model_type != _WRAPPER:
        return ImageDefaults("torch", _normalisation_of(config.name_or_path) if pretrained else None)
    known = vars(config).get("pretrained_cfg") or {}
    if not (pretrained and known.get("mean") and known.get("std")):
        return ImageDefaults("pillow")
    return ImageDefaults("pillow", Normalisation(tuple(known["mean"]), tuple(known["std"])))


def _normalisation_of(origin: str) -> Normalisation | None:
    """Of the folder or repository ``user/repo[@revision]`` that a model was opened from."""
    if Path(origin).is_dir():
        return normalisation_in(Path(origin))
    folder = folder_of(f"{HUB}{origin}")
    path = fetch(origin.partition("@")[0], PROCESSOR, folder.name, origin)
    return None if path is None else normalisation_in(path.parent)


def write_config(module: nn.Module, folder: Path, preprocessing: Preprocessing | None = None) -> None:
    """Write ``config.json`` with ``architectures`` and ``dtype``, as ``from_pretrained`` wants it.

    Its ``quantization_config`` names the plug-in that decodes packed files (``variant="sparse"``). With
    ``preprocessing`` it names the classes, and an image processor is written that ``AutoImageProcessor``
    reads. Tokenizer and processor are copied from where the model was opened. The model's own configuration
    object stays as it is.
    """
    model = cast("PreTrainedModel", module)
    copy_processor_files(model.name_or_path, folder)
    config = copy.deepcopy(model.config)
    config.architectures = [type(module).__name__]
    config.dtype = next(module.parameters()).dtype
    config.quantization_config = {"quant_method": KEY, "schema": SCHEMA}
    if preprocessing is not None:
        config.id2label = dict(enumerate(preprocessing.labels))
        config.label2id = {name: number for number, name in enumerate(preprocessing.labels)}
        if config.model_type == _WRAPPER:  # its processor is timm's transform
            config.pretrained_cfg = {
                **(vars(config).get("pretrained_cfg") or {}),
                **data_config(preprocessing),
            }
        else:
            write_processor(preprocessing, folder)
    config.save_pretrained(folder)


def rebuild(folder: Path) -> nn.Module:
    """The model that the folder's ``config.json`` describes, its random parameters left to be loaded.

    Raises:
        CheckpointError: the file is missing, or transformers cannot build what it says.
    """
    try:
        with global_stream(0, "rebuild", "transformers"):
            return unfilled(lambda: build(f"local-dir:{folder}", {}))
    except BadInput as error:
        raise CheckpointError(f"{folder / CONFIG}: {one_line(error)}") from error


def _forget_packing(config: PretrainedConfig) -> None:
    """The plug-in's entry says how packed files are stored, not what the model is."""
    stored = vars(config).get("quantization_config")
    if isinstance(stored, dict) and stored.get("quant_method") == KEY:
        del config.quantization_config


def _fresh(kind: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    _forget_packing(config)
    forget_code_(config)
    # in the dtype of the configuration; buffers that are float32 whatever it is, as frequencies are, stay so
    return cast("PreTrainedModel", kind._from_config(config))


def _heads(model: PreTrainedModel) -> tuple[str, ...]:
    """The output layer of a language model, else the last linear layer outside the base model.

    A few classifiers have no base model apart from themselves: there it is the last linear layer of all.
    """
    output = model.get_output_embeddings()
    if isinstance(output, nn.Module):
        return paths_of(model, [output])
    apart = model.base_model is not model
    if not apart and not type(model).__name__.endswith("Classification"):
        return ()
    inside = {id(m) for m in model.base_model.modules()} if apart else set()
    outside = [path for path, m in model.named_modules() if isinstance(m, nn.Linear) and id(m) not in inside]
    return tuple(outside[-1:])


_IDS = frozenset({
    "bridgetower",
    "csm",
    "deepseek_v4",
    "granite_speech",
    "granite_speech_plus",
    "ibert",
    "llama4",
})
"""Types that want ids though they take embeddings: for routing, to find where images and sound belong, or
because what they look up is no single tensor."""


def _embedder(model: PreTrainedModel) -> Callable[[Batch], Batch] | None:
    """From ids to embeddings, for models whose main input is ids and that take embeddings instead."""
    accepted = inspect.signature(model.forward).parameters
    if input_name(model) != "input_ids" or "inputs_embeds" not in accepted:
        return None
    if accepted["input_ids"].default is inspect.Parameter.empty or model.config.model_type in _IDS:
        return None
    if model.config.is_encoder_decoder and type(model).__name__.endswith("Classification"):
        return None  # they find the end of the text among the ids
    if isinstance(_table(model), nn.ModuleList | None):
        return None  # several tables, or none
    return partial(_embed, model)


def _embed(model: PreTrainedModel, batch: Batch) -> Batch:
    """The batch with the embeddings of its ids; no closure, so that a copied view embeds by its own model."""
    inputs = dict(batch.inputs)
    ids = inputs.pop("input_ids")
    return replace(batch, inputs={"inputs_embeds": model.get_input_embeddings()(ids), **inputs})


def _table(model: PreTrainedModel) -> nn.Module | None:
    """The look-up table of the ids; transformers says by an error that a model has no single one."""
    try:
        return cast("nn.Module | None", model.get_input_embeddings())
    except NotImplementedError:
        return None
