"""Sites: where in a module tree a parameter sits, whatever library the modules come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

_LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
_ORIGINAL = "_orig"
_KNOWN = frozenset({"_WeightNorm", "_SpectralNorm"})
_DIRECTIONS = {"weight_v": "weight_g", "weight_orig": "weight_u"}


@dataclass(frozen=True, eq=False)
class Site:
    """One name of one parameter.

    Attributes:
        name: its state-dict key.
        tensor: the parameter.
        path: names of the modules that lead to its owner.
        trail: those modules, from the root to the owner.
        local: what the owner calls it; the parametrised name (``weight``) for the direction of a
            weight-normalised or spectrally normalised tensor.
        magnitude: state-dict key of the norms that belong to the direction of a weight-normalised tensor.
        divided: axes over which the norms are taken that the tensor is divided by, if it is.
        made_into: what the owner calls the tensor that a parametrisation sigprune does not know (one of one's
            own, several at once, torch.nn.utils.prune) makes of this one; empty if none does.
    """

    name: str
    tensor: nn.Parameter
    path: tuple[str, ...]
    trail: tuple[nn.Module, ...]
    local: str
    magnitude: str | None = None
    divided: tuple[int, ...] | None = None
    made_into: str = ""

    @property
    def owner(self) -> nn.Module:
        """The module that uses the parameter."""
        return self.trail[-1]

    @property
    def vector(self) -> bool:
        """Whether at most one axis is longer than 1."""
        return self.tensor.numel() == max(self.tensor.shape, default=1)


def sites(root: nn.Module) -> list[list[Site]]:
    """Every parameter of a module, each with all its sites, in order of definition.

    The first site of each has the canonical name, the one that ``root.named_parameters()`` gives.
    """
    modules = dict(root.named_modules(remove_duplicate=False))
    found: dict[int, list[Site]] = {}
    for name, tensor in root.named_parameters(remove_duplicate=False):
        *path, local = name.split(".")
        trail = [modules[".".join(path[:depth])] for depth in range(len(path) + 1)]
        found.setdefault(id(tensor), []).append(_site(name, tensor, path, trail, local))
    return list(found.values())


def _site(name: str, tensor: nn.Parameter, path: list[str], trail: list[nn.Module], local: str) -> Site:
    owner, stem, made_into = trail[-1], name.removesuffix(local), ""
    magnitude: str | None = None
    divided: tuple[int, ...] | None = None
    if isinstance(owner, ParametrizationList):
        # the path ends in (..., user, "parametrizations", "weight")
        if [type(m).__name__ for m in owner] == ["_WeightNorm"] and local == "original1":
            magnitude = f"{stem}original0"
        known = _keeps_zeros(owner, local)
        if known:
            divided = _normed_axes(tensor, dict(owner.named_parameters()).get("original0"))
        made_into = "" if len(owner) == 1 and _KNOWN.issuperset(_kinds(owner)) else path[-1]
        local = path[-1] if known else f"{path[-1]}_{local}"
        path, trail = path[:-2], trail[:-2]
    elif local in _DIRECTIONS and _DIRECTIONS[local] in owner.state_dict(keep_vars=True):
        magnitude = f"{stem}weight_g" if local == "weight_v" else None
        divided = _normed_axes(tensor, owner.get_parameter("weight_g") if magnitude else None)
        local = "weight"
    elif masked_by_torch(owner, local):
        made_into = local.removesuffix(_ORIGINAL)
    return Site(name, tensor, tuple(path), tuple(trail), local, magnitude, divided, made_into)


def masked_by_torch(owner: nn.Module, local: str) -> bool:
    """Whether ``torch.nn.utils.prune`` multiplies the parameter of that name by a mask before use."""
    return local.endswith(_ORIGINAL) and f"{local.removesuffix(_ORIGINAL)}_mask" in dict(
        owner.named_buffers(recurse=False)
    )


def _normed_axes(direction: Tensor, norms: Tensor | None) -> tuple[int, ...]:
    """The axes that the norms do not have; all of them where there is one norm."""
    if norms is None or norms.dim() != direction.dim():
        return tuple(range(direction.dim()))
    return tuple(axis for axis, size in enumerate(norms.shape) if size == 1)


def _kinds(owner: ParametrizationList) -> tuple[str, ...]:
    return tuple(type(module).__name__ for module in owner)


def _keeps_zeros(owner: ParametrizationList, local: str) -> bool:
    """Whether the tensor is what a single rescaling rescales: then it is the weight, and its zeros stay."""
    directions = {("_WeightNorm", "original1"), ("_SpectralNorm", "original")}
    return len(owner) == 1 and (*_kinds(owner), local) in directions


def stages(root: nn.Module) -> Callable[[tuple[str, ...]], str]:
    """A function from the path of a module to the coarse part of the network that it belongs to.

    That part is a child of the root, or one element of the outermost list (``blocks.3``,
    ``layer1.0``); containers that only wrap such a list (``bert.encoder``) are looked into.
    """
    found = ((name, m) for name, m in root.named_modules() if name and isinstance(m, _LISTS))
    lists = {name for name, m in found if not isinstance(m, ParametrizationList)}
    above = {name.rsplit(".", drop)[0] for name in lists for drop in range(name.count(".") + 1)}

    def stage(path: tuple[str, ...]) -> str:
        for depth in range(1, len(path)):
            prefix = ".".join(path[:depth])
            if prefix in lists:
                return ".".join(path[: depth + 1])
            if prefix not in above:
                return prefix
        return ".".join(path)

    return stage
