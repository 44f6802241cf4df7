"""Models of timm: 1300 image architectures by name, timm's Hub repositories and local folders."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from sigprune.base.errors import BadInput, CheckpointError, UnknownName, one_line
from sigprune.base.family import Plain
from sigprune.base.seeds import global_stream
from sigprune.families.adapters._shared import first_input, first_tensor, ramp, survey
from sigprune.families.adapters._sources import FOLDER, plain_name, split_source
from sigprune.values.batch import Batch
from sigprune.values.view import View, readonly


def accepts(module: nn.Module) -> bool:
    """Whether timm's factory made the module (it leaves ``pretrained_cfg`` on it)."""
    cfg = vars(module).get("pretrained_cfg")
    return isinstance(cfg, dict) and "architecture" in cfg


def names() -> Sequence[str]:
    """Every architecture that timm registers."""
    import timm

    return cast(Sequence[str], timm.list_models())


def build(architecture: str, args: Mapping[str, Plain]) -> nn.Module:
    """The architecture with fresh weights from torch's global generators.

    Args:
        architecture: a timm name, or ``hf-hub:user/repo[@revision]`` or ``local-dir:folder``, whose
            ``config.json`` then says the architecture and its default arguments.
        args: keyword arguments of ``timm.create_model``: ``num_classes``, ``in_chans``, ``img_size``, ...

    Raises:
        UnknownName: timm has no such architecture.
        BadInput: timm cannot build it with these arguments, or the repository cannot be read.
    """
    return _create(architecture, pretrained=False, args=args)


def build_pretrained(hub_id: str, revision: str | None, args: Mapping[str, Plain]) -> nn.Module:
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
    source = f"hf-hub:{hub_id}" if ":" not in hub_id and "/" in hub_id else hub_id
    if revision is not None and plain_name(source):
        raise BadInput(f"{hub_id!r} is no Hub repository: it has no revision {revision!r}")
    safe = _only_safetensors(source)
    return _create(source if revision is None else f"{source}@{revision}", pretrained=True, args=args, **safe)


def _only_safetensors(source: str) -> dict[str, dict[str, str]]:
    """Arguments with which timm reads safetensors, where it would otherwise fall back on a pickle."""
    import timm

    if source.startswith(FOLDER):
        if not any(Path(split_source(source)[0]).glob("*.safetensors")):
            raise BadInput(f"{source}: there is no safetensors file; a pickle is never read")
        return {}
    if plain_name(source) and timm.is_model(source.partition(".")[0]):
        cfg = timm.get_pretrained_cfg(source)
        if cfg is None or not cfg.hf_hub_id:
            raise BadInput(
                f"timm:{source} has no weights on the Hub (a pickle is never read); leave pretrained out"
            )
    return {"pretrained_cfg_overlay": {"hf_hub_filename": "model.safetensors"}}


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


def write_config(module: nn.Module, folder: Path) -> None:
    """Write timm's ``config.json``, from which ``timm.create_model('local-dir:FOLDER')`` makes this model.

    It records the arguments that the factory was given, and classes, channels and image size as they are now.

    Raises:
        BadInput: an argument of the model cannot be written as JSON.
    """
    from timm.models._hub import save_config_for_hf

    # it warns that the mean and deviation of colour images are averaged for other channels, as they should be
    log = logging.getLogger("timm.data.model_config")
    level = log.level
    try:
        log.setLevel(logging.ERROR)
        save_config_for_hf(module, str(folder / "config.json"))
    except (ValueError, KeyError, AttributeError) as error:
        raise BadInput(f"timm cannot write a config.json for this model: {one_line(error)}") from error
    finally:
        log.setLevel(level)


def rebuild(folder: Path) -> nn.Module:
    """The model that the folder's ``config.json`` describes; its values are to be loaded afterwards.

    Raises:
        CheckpointError: the file is missing, or timm cannot build what it says.
    """
    try:
        with global_stream(0, "rebuild", "timm"):
            return build(f"local-dir:{folder}", {})
    except BadInput as error:
        raise CheckpointError(f"{folder / 'config.json'}: {one_line(error)}") from error


def _create(
    source: str, *, pretrained: bool, args: Mapping[str, Plain], **more: Mapping[str, str]
) -> nn.Module:
    import timm

    if plain_name(source) and not timm.is_model(source.partition(".")[0]):
        raise UnknownName("timm model", source, timm.list_models())
    try:
        return cast(nn.Module, timm.create_model(source, pretrained=pretrained, **args, **more))
    except Exception as error:  # whatever timm's 98 model files raise for arguments that they do not take
        given = ", ".join(f"{key}={value!r}" for key, value in args.items())
        raise BadInput(f"timm cannot create {source}({given}): {one_line(error)}") from error


def _classifiers(module: nn.Module, cfg: Mapping[str, object]) -> tuple[str, ...]:
    named = cfg.get("classifier") or ()
    wanted = (named,) if isinstance(named, str) else tuple(cast(Sequence[str], named))
    present = dict(module.named_modules())
    # a classifier may be a norm and a linear layer under one name
    return tuple(p for p, m in present.items() if isinstance(m, nn.Linear | nn.Conv2d) and _below(p, wanted))


def _below(path: str, parents: tuple[str, ...]) -> bool:
    return any(path == parent or path.startswith(f"{parent}.") for parent in parents)
