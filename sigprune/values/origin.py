"""Where the weights of a module come from; remembered on the module itself, so that copies know it too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast, get_args

from torch import nn

from sigprune.base.errors import UnknownName
from sigprune.base.registry import JsonValue

WeightsOrigin = Literal["fresh", "pretrained", "unknown"]
"""``fresh``: drawn by an initialiser; ``pretrained``: trained, or loaded from weights; ``unknown``: no one
has said, or fresh ones were written to since.
"""

_MARK = "_sigprune_weights_origin"
_REPLACED = "_sigprune_replaced"


def origin_of(module: nn.Module) -> WeightsOrigin:
    """What is remembered of the module.

    Fresh weights that anyone has written to since (an optimizer, ``load_state_dict``) are ``unknown``: torch
    counts the writes to each parameter, except those through ``.data``.
    """
    origin, writes = vars(module).get(_MARK, ("unknown", 0))
    if origin == "fresh" and writes != _writes(module):
        return "unknown"
    return cast(WeightsOrigin, origin)


def is_remembered(module: nn.Module) -> bool:
    """Whether anything was said of the module, be it ``unknown``."""
    return _MARK in vars(module)


def remember_origin_(module: nn.Module, origin: WeightsOrigin) -> None:
    """Say where the weights, as they are now, come from.

    Raises:
        UnknownName: it is none of the three.
    """
    if origin not in get_args(WeightsOrigin):
        raise UnknownName("origin of weights", str(origin), get_args(WeightsOrigin))
    vars(module)[_MARK] = (origin, _writes(module))


@contextmanager
def same_origin(module: nn.Module) -> Iterator[None]:
    """Inside, weights are masked or scaled, not trained: they come from where they came from."""
    origin = origin_of(module)
    yield
    if origin != "unknown":
        remember_origin_(module, origin)


def origin_in(provenance: Mapping[str, JsonValue]) -> WeightsOrigin:
    """What the provenance of a checkpoint says of its weights, in so many words or by how it was made.

    Example:
        >>> origin_in({"base_model": "timm/resnet18.a1_in1k"}), origin_in({"note": "dense"})
        ('pretrained', 'unknown')
    """
    recorded, recipe = provenance.get("weights_origin"), provenance.get("recipe")
    if recorded in get_args(WeightsOrigin):
        return cast(WeightsOrigin, recorded)
    kept = "base_model" in provenance or "source" in provenance  # written only where weights were kept
    return "pretrained" if kept or (isinstance(recipe, dict) and _trains(recipe)) else "unknown"


@dataclass(frozen=True)
class Replaced:
    """Tensors of a pretrained model that were drawn afresh.

    Attributes:
        names: in the state dict.
        reason: why the weights have none for them.
    """

    names: tuple[str, ...]
    reason: str


def remember_replaced_(module: nn.Module, names: Iterable[str], reason: str) -> None:
    """Say which tensors of a pretrained model were drawn afresh, if any."""
    if found := tuple(names):
        vars(module)[_REPLACED] = Replaced(found, reason)


def replaced_in(module: nn.Module) -> Replaced | None:
    """What is remembered of the model."""
    return cast("Replaced | None", vars(module).get(_REPLACED))


def other_classes(have: int, wanted: int) -> str:
    """The reason that a classifier of another size gives."""
    return f"the pretrained weights have {have} classes, and {wanted} were asked for"


def _trains(recipe: Mapping[str, JsonValue]) -> bool:
    train = recipe.get("train")
    epochs = train.get("epochs") if isinstance(train, dict) else None
    return isinstance(epochs, int) and epochs > 0


def _writes(module: nn.Module) -> int:
    return sum(p._version for p in module.parameters() if not p.is_inference())
