"""Opening and describing models: a reference becomes a module, a module becomes a view.

Importing this file does not import torch, so that recipes can be checked quickly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from sigprune.base.errors import BadInput, UnknownName, UnsupportedModel, nearest
from sigprune.base.registry import JsonValue
from sigprune.families.adapters import Adapter, adapters
from sigprune.sources.reference import ModelRef, local_path

if TYPE_CHECKING:
    from torch import nn

    from sigprune.values.batch import BatchLike
    from sigprune.values.origin import WeightsOrigin
    from sigprune.values.view import BatchNormMode, HeadPolicy, View


_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_FORMS = "timm:NAME, transformers:TYPE, torch:import.path, user/repo[@revision], or a folder"


def parse_ref(ref: str, revision: str | None = None, *, hint: bool = True) -> ModelRef:
    """Parse a model reference; looks at the file system, never at the network.

    Args:
        ref: the reference.
        revision: branch, tag or commit of a repository, if ``ref`` names none.
        hint: what is none is compared with all names of all libraries, which are imported for that.

    Raises:
        UnknownName: the part before the colon is no library.
        BadInput: it has none of the known forms, or names two revisions.

    Example:
        >>> parse_ref("timm:resnet18").name
        'resnet18'
        >>> parse_ref("timm/resnet18.a1_in1k@main").revision
        'main'
    """
    library, colon, name = ref.partition(":")
    if colon and library in {"hf-hub", "local-dir"}:
        return _hub(name, revision, hint=hint) if library == "hf-hub" else ModelRef("folder", None, name)
    if colon and len(library) > 1:
        if library not in adapters.names():
            raise UnknownName("library", library, adapters.names())
        if not name:
            raise BadInput(f"{ref!r} names no model; expected {_FORMS}")
        if "/" in name and library != "torch":
            return replace(parse_ref(name, revision, hint=hint), library=library)
        return ModelRef("library", library, name, revision)
    folder = local_path(ref) if ref else None
    if folder is not None and folder.is_dir():
        return ModelRef("folder", None, str(folder))
    if ref.startswith((".", "/", "~", "\\")):
        raise BadInput(f"{ref}: there is no such folder")
    return _hub(ref, revision, hint=hint)


def open_model(
    ref: str,
    *,
    pretrained: bool = False,
    revision: str | None = None,
    args: Mapping[str, JsonValue] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Make the model that a reference names.

    Args:
        ref: ``timm:NAME``, ``transformers:TYPE``, ``torch:import.path.of.callable``, ``user/repo[@revision]``
            (its ``config.json`` says which library), or a local folder.
        pretrained: load the weights that belong to the reference; else they are drawn afresh.
        revision: branch, tag or commit of a repository, if ``ref`` names none.
        args: passed on: ``num_classes``, ``in_chans``, ``img_size`` to timm; configuration fields and
            ``task`` to transformers; the callable's own to torch.
        seed: equal seeds give equal fresh weights. torch's own generators stay as they were.

    Returns:
        The library's own, unchanged module.

    Raises:
        BadInput: unknown or unreachable model, or arguments that it does not take.

    Example:
        >>> from sigprune import open_model
        >>> model = open_model("timm:test_resnet", args={"num_classes": 10})
        >>> model.num_classes
        10
    """
    from sigprune.base.rng import global_stream
    from sigprune.values.origin import remember_origin_

    reference = parse_ref(ref, revision)
    library, given = library_of(reference), dict(args or {})
    adapter = adapters.get(library)
    if reference.kind == "library" and reference.revision and not pretrained:
        raise BadInput(f"{ref}: a revision chooses pretrained weights; set pretrained, or leave it out")
    with global_stream(seed, "open", ref):
        if not pretrained:
            module = adapter.build(reference.source, given)
        else:
            place = reference.name if reference.kind == "hub" else reference.source
            module = adapter.build_pretrained(place, reference.revision, given)
    if pretrained or library != "torch":  # a callable of one's own may return weights of any origin
        remember_origin_(module, "pretrained" if pretrained else "fresh")
    return module


def library_of(reference: ModelRef) -> str:
    """The adapter that a reference belongs to; reads ``config.json`` (fetches it if need be) where it must.

    Raises:
        BadInput: the file cannot be read, or is of no library that sigprune knows.
    """
    if reference.library is not None:
        return reference.library
    from sigprune.sources.files import read_config

    config = read_config(reference.source)
    if "model_type" in config:  # also of timm models wrapped by transformers, whose config has both
        return "transformers"
    if "architecture" in config or "pretrained_cfg" in config:
        return "timm"
    if config.get("library") == "torch":
        raise BadInput(
            f"{reference.name} holds a model of one's own, and no folder may name code to run: "
            "make the model yourself and pass it to sigprune.load(folder, into=model)"
        )
    raise BadInput(
        f"{reference.name}: its config.json has neither model_type (transformers) nor architecture (timm): "
        "sigprune cannot tell what model it is"
    )


def class_args(ref: str, classes: int) -> dict[str, JsonValue]:
    """The argument that gives a model of this reference so many classes; empty where there is no such one.

    Example:
        >>> class_args("timm:resnet18", 10)
        {'num_classes': 10}
    """
    key = {"timm": "num_classes", "transformers": "num_labels"}.get(library_of(parse_ref(ref)))
    return {} if key is None else {key: classes}


def describe(
    model: nn.Module,
    *,
    example: BatchLike | None = None,
    batchnorm: BatchNormMode = "fresh",
    biases: bool = False,
    include: tuple[str, ...] = ("*",),
    exclude: tuple[str, ...] = (),
    heads: HeadPolicy | None = None,
    weights_origin: WeightsOrigin | None = None,
) -> View:
    """Say what every parameter of a model is; the model is not wrapped and not changed.

    Of a wrapper of torch around a whole model (``torch.compile``, DataParallel, DistributedDataParallel,
    AveragedModel, ``checkpoint_wrapper``) the view is that of the model inside, so that names are those of
    the plain model; the parameters are the same objects. The model is not run either, except transformers
    models that mix images or sound into a text: how many tokens these take is counted by running their own
    tower once.

    Args:
        model: any torch module; models of timm and transformers are known as such.
        example: a valid input (a tensor, a mapping of tensors, a Batch), where its shape cannot be told.
        batchnorm: how BatchNorm behaves in passes through the view; see :class:`View`.
        biases: pruning may also touch biases.
        include: shell patterns of the weight names, roles or stages that pruning may touch.
        exclude: the same of what it may not; see :meth:`View.select`.
        heads: whether pruning may touch classifiers; None: unless the weights are pretrained.
        weights_origin: ``fresh``, ``pretrained`` or ``unknown``, for this and later views of the model; None:
            as :attr:`View.weights_origin` knows it.

    Raises:
        UnsupportedModel: there is no parameter, the input's shape cannot be told and no example is given, or
            the model's own modules are not there any more (compiled by torch.jit, flattened by FSDP).
        BadInput: a pattern matches nothing, or there is no such BatchNorm mode, policy or origin.

    Example:
        >>> import torch
        >>> from sigprune import describe
        >>> view = describe(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)))
        >>> [(w.name, w.role) for w in view.weights]
        [('0.weight', 'linear'), ('1.weight', 'head')]
    """
    from sigprune.values.origin import remember_origin_

    model = _inside_wrappers(model)
    view = _adapter(model).describe(model).using(batchnorm)
    if weights_origin is not None:
        remember_origin_(model, weights_origin)
    if example is not None:
        view = replace(view, example=replace(view.read(example), labels=None))
    if not view.example.inputs:
        raise UnsupportedModel(
            f"the shape of the input of {view.architecture} cannot be told; pass describe(model, example=x)"
        )
    if biases or exclude or heads or include != ("*",):
        return view.select(include=include, exclude=exclude, biases=biases, heads=heads)
    if view.weights_origin == "pretrained":
        return replace(view, prunable=tuple(n for n in view.prunable if view[n].role != "head"))
    return view


_WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "OptimizedModule": "_orig_mod",
    "ActivationWrapper": "_checkpoint_wrapped_module",
}
"""Class of torch -> the child that it wraps. By name: importing the classes takes seconds."""


def _inside_wrappers(model: nn.Module) -> nn.Module:
    """The plain model, whatever of torch is wrapped around it.

    Raises:
        UnsupportedModel: it is no module, or one of which the plain modules are lost.
    """
    from torch import nn

    if not isinstance(model, nn.Module):
        raise UnsupportedModel(
            f"expected a torch.nn.Module, got {type(model).__name__}; open_model(name) opens a model by name"
        )
    while (child := next((_WRAPPERS[k] for k in _torch_classes(model) if k in _WRAPPERS), None)) is not None:
        model = model.get_submodule(child)
    for path, module in model.named_modules():
        kinds = {"FullyShardedDataParallel", "ScriptModule"}.intersection(_torch_classes(module))
        if kinds:
            raise UnsupportedModel(
                f"{path or 'the model'} is a {min(kinds)}, which keeps no module with weights of its own: "
                "describe the plain model before it is "
                + (
                    "scripted or traced"
                    if "ScriptModule" in kinds
                    else "wrapped (fully_shard keeps its names)"
                )
            )
    return model


def _torch_classes(module: nn.Module) -> list[str]:
    """Names of those of its classes that torch defines."""
    return [kind.__name__ for kind in type(module).__mro__ if kind.__module__.partition(".")[0] == "torch"]


def _adapter(model: nn.Module) -> Adapter:
    """The first adapter that accepts the model; torch's accepts every module and comes last."""
    others = [name for name in adapters.names() if name != "torch"]
    found = (adapters.get(name) for name in (*others, "torch"))
    return next(adapter for adapter in found if adapter.accepts(model))


def _hint(name: str) -> str:
    """The names that a bare one may stand for: those that it is, else the nearest; of any library."""
    if re.fullmatch(r"[\w.-]+", name) is None:
        return ""
    own = {library: set(adapters.get(library).names()) for library in adapters.names()}
    found = [f"{library}:{name}" for library, names in own.items() if name in names] or [
        f"{library}:{close}" for library, names in own.items() for close in nearest(name, names, 1)
    ]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _hub(name: str, revision: str | None, *, hint: bool) -> ModelRef:
    repository, at, own = name.partition("@")
    if not _REPOSITORY.fullmatch(repository) or (at and not own):
        raise BadInput(f"{name!r} is no model reference; expected {_FORMS}{_hint(name) if hint else ''}")
    if own and revision and own != revision:
        raise BadInput(f"{name}: two revisions are given, {own} and {revision}")
    return ModelRef("hub", None, repository, own or revision)
