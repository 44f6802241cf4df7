"""Adapters: they open the models of one library and describe them as views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sigprune.base.lazy import lazy_names
from sigprune.base.registry import Family, JsonValue

if TYPE_CHECKING:
    from torch import nn

    from sigprune.families.adapters._examples import first_input as first_input
    from sigprune.families.adapters._examples import first_tensor as first_tensor
    from sigprune.families.adapters._examples import ramp as ramp
    from sigprune.families.adapters._module_tree.walk import paths_of as paths_of
    from sigprune.families.adapters._module_tree.walk import survey as survey
    from sigprune.families.adapters._references import check_references as check_references
    from sigprune.values.preprocessing import ImageDefaults, Preprocessing
    from sigprune.values.view import View


class ImageDefaultsOf(Protocol):
    """What a library does with image files."""

    def __call__(self, module: nn.Module, *, pretrained: bool) -> ImageDefaults:
        """See :class:`Adapter`."""


class Adapter(Protocol):
    """A member knows one library.

    ``accepts(module)`` says whether the module comes from that library, without importing it.
    ``names()`` lists the architectures that ``build`` knows (empty where any import path will do).
    ``build(architecture, args)`` makes the architecture with fresh weights, drawn from torch's global
    generators; ``build_pretrained(hub_id, revision, args)`` makes one with the weights of a Hub repository.
    ``describe(module)`` makes the view; it imports the library only if the module does.
    ``write_config(module, folder, preprocessing)`` writes the library's own ``config.json`` and, unless that
    is None, what the library wants to know of the model's images and outputs; ``rebuild(folder)`` makes the
    model from it, weights unset. ``image_defaults(module, pretrained=...)`` says what the library does with
    image files; if the weights are pretrained also what they were normalised with in training.
    ``SHARDED`` says whether the library reads weights from several files.
    """

    accepts: Callable[[nn.Module], bool]
    names: Callable[[], Sequence[str]]
    build: Callable[[str, Mapping[str, JsonValue]], nn.Module]
    build_pretrained: Callable[[str, str | None, Mapping[str, JsonValue]], nn.Module]
    describe: Callable[[nn.Module], View]
    write_config: Callable[[nn.Module, Path, Preprocessing | None], None]
    image_defaults: ImageDefaultsOf
    rebuild: Callable[[Path], nn.Module]
    SHARDED: bool


adapters: Family[Adapter] = Family(__name__, "adapter", "describe")

__getattr__ = lazy_names(
    __name__,
    {
        "check_references": "_references",
        "first_input": "_examples",
        "first_tensor": "_examples",
        "paths_of": "_module_tree.walk",
        "ramp": "_examples",
        "survey": "_module_tree.walk",
    },
)
