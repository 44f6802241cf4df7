"""Sites: where in a module tree a parameter sits, whatever library the modules come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

_LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
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
    """

    name: str
    tensor: nn.Parameter
    path: tuple[str, ...]
    trail: tuple[nn.Module, ...]
    local: str
    magnitude: str | None = None

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
    owner, stem, magnitude = trail[-1], name.removesuffix(local), None
    if isinstance(owner, ParametrizationList):
        # the path ends in (..., user, "parametrizations", "weight")
        if [type(m).__name__ for m in owner] == ["_WeightNorm"] and local == "original1":
            magnitude = f"{stem}original0"
        local = _original(owner, path[-1], local)
        path, trail = path[:-2], trail[:-2]
    elif local in _DIRECTIONS and _DIRECTIONS[local] in owner.state_dict(keep_vars=True):
        magnitude = f"{stem}weight_g" if local == "weight_v" else None
        local = "weight"
    return Site(name, tensor, tuple(path), tuple(trail), local, magnitude)


def _original(owner: ParametrizationList, target: str, local: str) -> str:
    """What a stored tensor is to the module: rescalings keep zeros, so that their direction is a weight."""
    kinds = [type(module).__name__ for module in owner]
    directions = {("_WeightNorm", "original1"), ("_SpectralNorm", "original")}
    return target if len(kinds) == 1 and (kinds[0], local) in directions else f"{target}_{local}"


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
