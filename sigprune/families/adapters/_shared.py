"""What the adapters share: the walk over a module tree, and deterministic example inputs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sigprune.base.errors import UnsupportedModel
from sigprune.families.adapters._convolutions import convolution_of
from sigprune.families.adapters._layouts import (
    bias_name,
    layout_of,
    longest_row,
    padding_rows,
    role_of,
    standardised,
)
from sigprune.families.adapters._reasons import gate_of, is_fixed_table, reason_of
from sigprune.families.adapters._sites import Site, sites, stages
from sigprune.values.view import Gate, Reason
from sigprune.values.weight import Weight


@dataclass(eq=False)
class Survey:
    """Every parameter of a module tree, sorted into weights, gates and the rest."""

    weights: list[Weight] = field(default_factory=list)
    skipped: dict[str, Reason] = field(default_factory=dict)
    gates: list[Gate] = field(default_factory=list)

    @property
    def prunable(self) -> tuple[str, ...]:
        """The weights that pruning touches by default: all but the embeddings."""
        return tuple(w.name for w in self.weights if w.role != "embedding")


def survey(root: nn.Module, heads: Iterable[str] = ()) -> Survey:
    """Sort every parameter of a module into weights and skipped ones; runs nothing and changes nothing.

    Args:
        root: any module tree, on any device.
        heads: paths of the classifiers.

    Raises:
        UnsupportedModel: there is no parameter, or one has no shape yet.
    """
    groups = sites(root)
    if not groups:
        raise UnsupportedModel(f"{type(root).__name__} has no parameters: there is nothing to describe")
    names = {id(group[0].tensor): group[0].name for group in groups}
    stage, classifiers, found = stages(root), frozenset(heads), Survey()
    for group in groups:
        if is_lazy(group[0].tensor):
            raise UnsupportedModel(
                f"{group[0].name} has no shape yet: run the lazy module once, then describe it"
            )
        site = _reading(group)
        layout = layout_of(site)
        if layout is None or is_fixed_table(site):
            _skip(found, group)
            continue
        bias = dict(site.owner.named_parameters(recurse=False)).get(bias_name(site))
        weight = Weight(
            name=group[0].name,
            shape=tuple(site.tensor.shape),
            layout=layout,
            role=role_of(site, classifiers),
            stage=stage(site.path),
            bias=None if bias is None else names[id(bias)],
            tied=tuple(s.name for s in group[1:]),
            standardised=standardised(site),
            padding=padding_rows(group),
            longest=longest_row(group),
            magnitude=site.magnitude,
            divided=site.divided,
            convolution=convolution_of(site),
        )
        found.weights.append(weight)
    return found


def _reading(group: list[Site]) -> Site:
    """The site whose module says how to read the tensor: a look-up table before a tied output layer."""
    known = [s for s in group if layout_of(s) is not None]
    tables = [s for s in known if isinstance(s.owner, nn.Embedding | nn.EmbeddingBag)]
    return (tables or known or group)[0]


def _skip(found: Survey, group: list[Site]) -> None:
    gate = gate_of(group[0])
    if gate is not None:
        found.gates.append(gate)
    reason: Reason = "gate" if gate is not None else reason_of(group[0])
    if any(_hides_a_weight(site) for site in group):
        reason = "parametrised"
    found.skipped |= dict.fromkeys((site.name for site in group), reason)


def _hides_a_weight(site: Site) -> bool:
    """Whether an unknown parametrisation makes a matrix of it."""
    if not site.made_into or site.vector:
        return False
    return layout_of(replace(site, local=site.made_into)) is not None


def paths_of(root: nn.Module, modules: Iterable[nn.Module | None]) -> tuple[str, ...]:
    """The paths of some modules of a tree; those that are None or not in it are left out."""
    wanted = {id(m) for m in modules if m is not None}
    return tuple(name for name, m in root.named_modules() if id(m) in wanted)


def ramp(*shape: int) -> Tensor:
    """An example input without randomness: float32 values that rise from -1 to 1."""
    return torch.linspace(-1.0, 1.0, max(torch.Size(shape).numel(), 1)).reshape(shape)


def first_input(module: nn.Module) -> str:
    """The name that ``module.forward`` gives its first input.

    Raises:
        UnsupportedModel: it takes none by name.
    """
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind in kinds:
            return parameter.name
    inner = [name for name, child in module.named_children() if any(True for _ in child.parameters())]
    hint = f", or describe the model inside: describe(model.{inner[0]})" if len(inner) == 1 else ""
    raise UnsupportedModel(
        f"{type(module).__name__}.forward has no named input; give it one, as in forward(self, x){hint}"
    )


def first_tensor(output: object) -> Tensor:
    """The tensor of interest in what a model returns: itself, its ``logits``, or the first of several.

    Raises:
        UnsupportedModel: there is no tensor in it.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    parts = tuple(output.values()) if isinstance(output, dict) else output
    for part in parts if isinstance(parts, tuple | list) else ():
        if isinstance(part, Tensor | tuple | list | dict):
            return first_tensor(part)
    raise UnsupportedModel(
        f"expected a tensor, several, or .logits of the model, got {type(output).__name__}"
    )
