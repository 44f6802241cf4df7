"""The plug-in that makes transformers decode packed files: ``from_pretrained(repo, variant="sparse")``.

Only the hook that all of transformers 5 has is used: a quantizer whose ``get_weight_conversions`` gives one
converter for each kind of parameter name. What comes out is a plain, trainable, dense model with zeros:
``dequantize`` makes transformers forget the plug-in once the model is loaded.

transformers is imported with this file, so import it only where transformers is imported already.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from transformers.quantizers.auto import (
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from sigprune.base.errors import CheckpointError
from sigprune.base.registry import JsonValue
from sigprune.base.tensors import Tensors
from sigprune.families.adapters import check_references
from sigprune.format.index import KEY, manifests_in_files
from sigprune.format.manifest import SCHEMA, Entry
from sigprune.format.network_config import expect_network

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.core_model_loading import ConversionOps, WeightConverter

_END = r"(?![\w.])"
"""Ends a pattern at the end of a name; transformers drops it where a pattern becomes a name again."""


class Unpack(Protocol):
    """Decodes one tensor from its stored parts: name, entry, where the parts come from."""

    def __call__(self, name: str, entry: Entry, file: Parts, /) -> tuple[Tensor, Tensor | None]:
        """The dense tensor and its mask."""


@dataclass(frozen=True)
class Parts:
    """The parts of one tensor, as an open file gives them."""

    tensors: Tensors

    def get_tensor(self, name: str) -> Tensor:
        """The part of this name."""
        if name not in self.tensors:
            raise CheckpointError(f"{name}: missing from the file")
        return self.tensors[name]


def register(unpack: Unpack) -> None:
    """Tell transformers how models with ``quant_method: sigprune`` in their ``config.json`` are stored.

    A second call does nothing.
    """
    if KEY in AUTO_QUANTIZER_MAPPING:
        return

    @register_quantization_config(KEY)
    class SparseConfig(QuantizationConfigMixin):  # type: ignore[misc]  # untyped
        """The ``quantization_config`` of a ``config.json`` beside packed files."""

        def __init__(self, schema: int = SCHEMA, **_: JsonValue) -> None:
            self.quant_method = KEY
            self.schema = schema
            self.dequantize = True

    @register_quantizer(KEY)
    class SparseQuantizer(HfQuantizer):  # type: ignore[misc]
        """Decodes the packed files among those that a model is loaded from; dense files load as ever."""

        entries: Mapping[str, Entry] = {}
        shapes: Mapping[str, torch.Size] = {}

        @property
        def is_trainable(self) -> bool:
            """It leaves a plain model behind."""
            return True

        def is_serializable(self, *_: bool) -> bool:
            """Likewise."""
            return True

        def update_attn_implementation(self, config: PretrainedConfig) -> PretrainedConfig:
            """The last moment before the model is built, which must not follow names out of it."""
            check_references(config.to_dict(), str(config.name_or_path))
            return config

        update_tp_plan = update_attn_implementation  # older transformers (5.10) has this one only

        def _process_model_before_weight_loading(
            self, model: PreTrainedModel, checkpoint_files: Sequence[str] | None = None, **_: object
        ) -> PreTrainedModel:
            paths = [Path(file) for file in checkpoint_files or ()]
            manifests = manifests_in_files(paths)
            for manifest in manifests[:1]:
                expect_network(paths[0].parent, manifest)
            self.entries = {name: e for manifest in manifests for name, e in manifest.tensors.items()}
            self.shapes = _shapes(model)
            return model

        def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: object) -> PreTrainedModel:
            """Older transformers (5.10) sets tensors of any shape where a quantizer is at work."""
            _expect_shapes(model, self.shapes)
            return model

        def get_weight_conversions(self) -> list[WeightConverter]:
            return _converters(self, self.entries, unpack) if self.entries else []


def _shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    return {name: t.shape for name, t in itertools.chain(model.named_parameters(), model.named_buffers())}


def _expect_shapes(model: PreTrainedModel, shapes: Mapping[str, torch.Size]) -> None:
    """Make sure that no tensor has another shape than before; parts of split weights have."""
    if getattr(model, "_tp_size", None) not in {None, 1}:
        return
    for name, shape in _shapes(model).items():
        if shape != shapes.get(name, shape):
            raise CheckpointError(
                f"{name}: the configuration gives it the shape {tuple(shapes[name])}, the files have "
                f"{tuple(shape)}; load it as it was saved and change it afterwards, or use a newer "
                "transformers with ignore_mismatched_sizes"
            )


def _converters(
    quantizer: HfQuantizer, entries: Mapping[str, Entry], unpack: Unpack
) -> list[WeightConverter]:
    """One for each last part of a masked tensor's name: all parts of such tensors, and plain ones too."""
    from transformers.core_model_loading import WeightConverter

    operation = _operation(quantizer, entries, unpack)
    suffixes: dict[str, set[str]] = {}
    for name, entry in entries.items():
        if entry.masked is not None:
            suffixes.setdefault(_tail(name), set()).update(entry.masked.parts)
    return [
        # The plain name first: transformers saves the tensor under the first of the names.
        WeightConverter([tail + suffix + _END for suffix in sorted(found)], tail, [operation])
        for tail, found in sorted(suffixes.items())
    ]


def _operation(quantizer: HfQuantizer, entries: Mapping[str, Entry], unpack: Unpack) -> ConversionOps:
    from transformers.core_model_loading import ConversionOps

    class AsTheyAre(ConversionOps):  # type: ignore[misc]
        """Saving a loaded model: its tensors are dense."""

        def convert(self, input_dict: dict[str, list[Tensor]], **_: object) -> dict[str, list[Tensor]]:
            return input_dict

    class Decode(ConversionOps):  # type: ignore[misc]
        """The stored parts of one tensor -> the tensor, on the device and in the dtype of its parameter."""

        def __init__(self) -> None:
            self.hf_quantizer = quantizer  # its presence keeps transformers from casting the stored bytes

        def convert(
            self,
            input_dict: dict[str, list[Tensor] | Tensor],
            *_: object,
            full_layer_name: str,
            model: PreTrainedModel,
            **__: object,
        ) -> dict[str, Tensor]:
            found = {
                pattern.removesuffix(_END): given[0] if isinstance(given, list) else given
                for pattern, given in input_dict.items()
            }
            name = _stored_name(full_layer_name, model.base_model_prefix, entries)
            entry, tail = entries[name], _tail(name)
            first = next(iter(found.values()))
            if entry.masked is None:  # stored as it is; may be cast already
                dense = first
            else:
                own = {name + s: found[tail + s] for s in entry.masked.parts if tail + s in found}
                dense = unpack(name, entry, Parts(own))[0]
            dtype = model.get_parameter_or_buffer(full_layer_name).dtype
            return {full_layer_name: dense.to(device=first.device, dtype=dtype)}

        @property
        def reverse_op(self) -> ConversionOps:
            return AsTheyAre()

    return Decode()


def _tail(name: str) -> str:
    """The last part of a name, with the ones before it as far as they are numbers."""
    parts = name.split(".")
    first = len(parts) - 1
    while first and parts[first].isdigit():
        first -= 1
    return ".".join(parts[first:])


def _stored_name(name: str, prefix: str, entries: Mapping[str, Entry]) -> str:
    """The name in the file: a base model may be loaded from one with a head, and the other way round."""
    for known in (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")):
        if known in entries:
            return known
    raise CheckpointError(f"{name}: the manifest of the packed file does not name it")
