"""Models of timm: 1300 image architectures by name, timm's Hub repositories and local folders."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from sigprune.base.bits import as_integers
from sigprune.base.errors import BadInput, CheckpointError, UnknownName, one_line, suggestion
from sigprune.base.registry import JsonValue
from sigprune.base.rng import global_stream
from sigprune.families.adapters._examples import first_input, first_tensor, ramp
from sigprune.families.adapters._image_files import data_config
from sigprune.families.adapters._module_tree.walk import paths_of, survey
from sigprune.families.adapters._references import check_timm_args
from sigprune.families.adapters._unfilled import unfilled
from sigprune.format.names import CONFIG
from sigprune.sources.files import (
    FOLDER,
    HUB,
    folder_of,
    place_of,
    plain_name,
    read_config,
    unfit,
    weights_of,
)
from sigprune.values.batch import Batch
from sigprune.values.origin import other_classes, remember_replaced_
from sigprune.values.preprocessing import ImageDefaults, Normalisation, Preprocessing
from sigprune.values.view import View, readonly

SHARDED = False


def accepts(module: nn.Module) -> bool:
    """Whether timm's factory made the module (it leaves ``pretrained_cfg`` on it)."""
    cfg = vars(module).get("pretrained_cfg")
    return isinstance(cfg, dict) and "architecture" in cfg


def names() -> Sequence[str]:
    """Every architecture that timm registers."""
    import timm

    return cast(Sequence[str], timm.list_models())


def build(architecture: str, args: Mapping[str, JsonValue]) -> nn.Module:
    """The architecture with fresh weights from torch's global generators.

    Args:
        architecture: a timm name, or ``hf-hub:user/repo[@revision]`` or ``local-dir:folder``, whose
            ``config.json`` then says the architecture and its default arguments.
        args: keyword arguments of ``timm.create_model``: ``num_classes``, ``in_chans``, ``img_size``, ...

    Raises:
        UnknownName: timm has no such architecture.
        BadInput: timm cannot build it with these arguments, or the repository cannot be read; an argument is
            no parameter of the architecture (``pretrained``, ``checkpoint_path``, ...).
    """
    if plain_name(architecture):
        _check(architecture)
        check_timm_args(architecture, args, f"timm:{architecture}")
        return _create(architecture, architecture, args)
    return _create(f"{FOLDER}{_known(architecture, args)[0]}", architecture, args)


def build_pretrained(hub_id: str, revision: str | None, args: Mapping[str, JsonValue]) -> nn.Module:
    """The architecture with pretrained weights.

    Only safetensors are read, never a pickle. Arguments may change ``num_classes`` (a fresh classifier),
    ``in_chans`` and ``img_size`` (timm adapts the weights).

    Args:
        hub_id: ``user/repo``, ``hf-hub:user/repo``, ``local-dir:folder``, or a plain timm name such as
            ``resnet18`` or ``resnet18.a1_in1k`` for the weights that timm itself points to.
        revision: branch, tag or commit of a Hub repository.
        args: as in :func:`build`.

    Raises:
        UnknownName: timm has no such architecture.
        BadInput: there are no weights, they cannot be fetched, or do not fit the arguments.
    """
    source = f"{HUB}{hub_id}" if plain_name(hub_id) and "/" in hub_id else hub_id
    if plain_name(source):
        if revision is not None:
            raise BadInput(f"{hub_id!r} is no Hub repository: it has no revision {revision!r}")
        check_timm_args(source, args, f"timm:{source}")
        name, classes, weights = source, None, weights_of(f"{HUB}{_repository(source)}", None)
    else:
        source = f"{source}@{revision}" if revision else source
        folder, classes = _known(source, args)
        name, weights = f"{FOLDER}{folder}", weights_of(source, folder)
    return _loaded(name, source, args, weights, classes)


def _loaded(
    name: str, source: str, args: Mapping[str, JsonValue], weights: Path, classes: int | None
) -> nn.Module:
    """The model with the weights of a file: all of them, except a classifier of another size than theirs.

    timm loads whatever has a fitting name as soon as the numbers of classes differ, so the file is first
    loaded as the configuration says; what that gave must be in the model that is wanted too.

    Args:
        name: what timm is asked for.
        source: what messages call it.
        args: as for :func:`build`.
        weights: a safetensors file.
        classes: how many the weights have, by their configuration; None: timm knows it.
    """
    own = {key: value for key, value in args.items() if key != "num_classes"}
    # the file and no other weights that a configuration names; strictly, unless num_classes is another
    overlay: dict[str, JsonValue] = {
        "source": "",
        "file": str(weights),
        "custom_load": False,
        "state_dict": None,
    }
    overlay |= {} if classes is None else {"num_classes": classes}
    try:
        with global_stream(0, "check", "timm"):
            whole = _create(name, source, own, pretrained=True, pretrained_cfg_overlay=overlay)
        if classes is not None and vars(whole).get("num_classes", classes) != classes:
            raise unfit(source, f"expected {classes} classes, got {vars(whole)['num_classes']}")
        if vars(whole).get("num_classes") == args.get("num_classes", vars(whole).get("num_classes")):
            return whole
        model = _create(name, source, args, pretrained=True, pretrained_cfg_overlay=overlay)
    except BadInput as error:
        if isinstance(error.__cause__, RuntimeError) and "state_dict" in str(error.__cause__):
            raise unfit(source, _misfit(error.__cause__)) from error
        raise
    heads, known, state = _heads(model), whole.state_dict(), model.state_dict()
    for key, tensor in state.items():
        if not _below(key, heads) and (key not in known or not _same(tensor, known[key])):
            raise unfit(source, f"{key} is not taken over into the model with another classifier")
    reason = other_classes(int(vars(whole).get("num_classes", 0)), int(str(args["num_classes"])))
    remember_replaced_(model, (key for key in state if _below(key, heads)), reason)
    return model


def _heads(module: nn.Module) -> tuple[str, ...]:
    """Paths of what timm replaces where the number of classes changes."""
    found = cast("Callable[[], nn.Module | Sequence[nn.Module]]", getattr(module, "get_classifier"))()  # noqa: B009
    modules = [found] if isinstance(found, nn.Module) else list(found or ())
    return paths_of(module, modules)


def _same(one: Tensor, other: Tensor) -> bool:
    """Bit by bit: NaN too."""
    return one.shape == other.shape and torch.equal(as_integers(one), as_integers(other))


def _misfit(error: BaseException) -> str:
    """What torch finds wrong with a state dict, without its introduction."""
    return one_line(error).partition(": ")[2].rstrip(".")


def _repository(name: str) -> str:
    """The repository of the weights that timm itself points to."""
    import timm

    _check(name)
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.hf_hub_id:
        raise BadInput(
            f"timm:{name} has no weights on the Hub (a pickle is never read); leave pretrained out"
        )
    return cast(str, cfg.hf_hub_id)


def _known(source: str, args: Mapping[str, JsonValue]) -> tuple[Path, int]:
    """The folder of a source whose ``config.json`` names an architecture of timm; its number of classes.

    Raises:
        BadInput: it names no such architecture; its arguments, or the given ones, are not the architecture's.
    """
    import timm

    config = read_config(source)
    name = config.get("architecture")
    if not isinstance(name, str) or not timm.is_model(name):
        raise BadInput(
            f"{place_of(source)}: its config.json names the architecture {name!r}, which timm "
            f"{timm.__version__} does not know; {suggestion(str(name), timm.list_models())}"
        )
    stored = config.get("model_args") or {}
    if not isinstance(stored, dict):
        raise BadInput(f"{place_of(source)}: model_args: expected an object, got {type(stored).__name__}")
    check_timm_args(name, stored, f"{place_of(source)}: model_args")
    check_timm_args(name, args, place_of(source))
    return folder_of(source), _classes(config, stored)


def _classes(config: Mapping[str, JsonValue], stored: Mapping[str, JsonValue]) -> int:
    """The number of classes that timm builds a model with, as it reads a ``config.json``: arguments first."""
    inner = config.get("pretrained_cfg")
    for fields in (stored, config, inner if isinstance(inner, dict) else {}):
        number = fields.get("num_classes")
        if isinstance(number, int) and number >= 0:
            return number
    return 1000


def _check(name: str) -> None:
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise UnknownName("timm model", name, timm.list_models())


def describe(module: nn.Module) -> View:
    """The view of a model that timm's factory made; the example has the model's own current input size."""
    from timm.models import get_model_input_config

    cfg = vars(module)["pretrained_cfg"]
    name = first_input(module)
    found = survey(module, _classifiers(module, cfg))
    parameter = next(module.parameters())
    size = get_model_input_config(module)["input_size"]
    return View(
        module=module,
        library="timm",
        architecture=cfg["architecture"],
        weights=tuple(found.weights),
        skipped=readonly(found.skipped),
        gates=tuple(found.gates),
        example=Batch({name: ramp(1, *size)}).to(parameter.device, parameter.dtype),
        input_name=name,
        read_output=read_output,
        prunable=found.prunable,
    )


def read_output(output: object) -> Tensor:
    """The logits; of several outputs the first (in evaluation mode timm averages its distilled heads)."""
    return first_tensor(output)


def image_defaults(module: nn.Module, *, pretrained: bool) -> ImageDefaults:
    """Pillow resizes; mean and deviation of the pretrained weights, one per channel that the model takes."""
    if not pretrained:
        return ImageDefaults("pillow")
    from timm.data.model_config import resolve_input_data_config

    with _quiet():
        config = resolve_input_data_config(module)
    return ImageDefaults("pillow", Normalisation(tuple(config["mean"]), tuple(config["std"])))


def write_config(module: nn.Module, folder: Path, preprocessing: Preprocessing | None = None) -> None:
    """Write timm's ``config.json``, from which ``timm.create_model('local-dir:FOLDER')`` makes this model.

    It records the arguments that the factory was given, and classes, channels and image size as they are now;
    with ``preprocessing`` also what ``timm.data.resolve_data_config`` reads, and the names of the classes.

    Raises:
        BadInput: an argument of the model cannot be written as JSON.
    """
    from timm.models._hub import save_config_for_hf

    data, more = None, None
    if preprocessing is not None:
        data, more = data_config(preprocessing), {"label_names": list(preprocessing.labels)}
    try:
        with _quiet():
            save_config_for_hf(module, str(folder / CONFIG), model_config=more, data_config=data)
    except (ValueError, KeyError, AttributeError) as error:
        raise BadInput(f"timm cannot write a config.json for this model: {one_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No warning that mean and deviation of colours are averaged for other channels, as they should be."""
    log = logging.getLogger("timm.data.model_config")
    level = log.level
    try:
        log.setLevel(logging.ERROR)
        yield
    finally:
        log.setLevel(level)


def rebuild(folder: Path) -> nn.Module:
    """The model that the folder's ``config.json`` describes, its random parameters left to be loaded.

    Raises:
        CheckpointError: the file is missing, or timm cannot build what it says.
    """
    try:
        with global_stream(0, "rebuild", "timm"):
            return unfilled(lambda: build(f"local-dir:{folder}", {}))
    except BadInput as error:
        raise CheckpointError(f"{folder / CONFIG}: {one_line(error)}") from error


def _create(
    name: str, source: str, args: Mapping[str, JsonValue], **more: bool | Mapping[str, JsonValue]
) -> nn.Module:
    import timm

    try:
        return cast(nn.Module, timm.create_model(name, **args, **more))
    except Exception as error:  # whatever timm's 98 model files raise for arguments that they do not take
        given = ", ".join(f"{key}={value!r}" for key, value in args.items())
        raise BadInput(f"timm cannot create {place_of(source)}({given}): {one_line(error)}") from error


def _classifiers(module: nn.Module, cfg: Mapping[str, object]) -> tuple[str, ...]:
    named = cfg.get("classifier") or ()
    wanted = (named,) if isinstance(named, str) else tuple(cast(Sequence[str], named))
    present = dict(module.named_modules())
    # a classifier may be a norm and a linear layer under one name
    return tuple(p for p, m in present.items() if isinstance(m, nn.Linear | nn.Conv2d) and _below(p, wanted))


def _below(path: str, parents: tuple[str, ...]) -> bool:
    return any(path == parent or path.startswith(f"{parent}.") for parent in parents)
