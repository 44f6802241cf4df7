"""What the adapters share: the walk over a module tree, and deterministic example inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from torch import nn
from torch.nn.parameter import is_lazy

from sigprune.base.errors import UnsupportedModel
from sigprune.families.adapters._module_tree.convolutions import convolution_of
from sigprune.families.adapters._module_tree.layouts import (
    bias_name,
    layout_of,
    longest_row,
    padding_rows,
    role_of,
    standardised,
)
from sigprune.families.adapters._module_tree.sites import Site, sites, stages
from sigprune.families.adapters._module_tree.skip_reasons import gate_of, is_fixed_table, reason_of
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
