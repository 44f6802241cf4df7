"""Reachability: which kept entries lie on a path from the input to the output of the masked network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sigprune.base.errors import BadInput, one_line
from sigprune.base.rng import generator, global_stream
from sigprune.base.tensors import Tensors
from sigprune.values.batch import Batch
from sigprune.values.mask import Mask
from sigprune.values.operator import differentiable
from sigprune.values.paths import Paths
from sigprune.values.view import View, expect_view

_AS_THEY_ARE = ("router", "state")
"""Parameters whose values are no strengths of connections."""


def effective(view: View, mask: Mask, *, draws: int = 1, seed: int = 0) -> Mask:
    """The kept entries that lie on at least one path from the input to the output.

    A path runs through kept entries and through everything that pruning does not touch: norms, attention,
    gates, residual sums. An entry is on one if, for some values of the kept entries and of the parameters
    outside the mask, a change of the input reaches the output through it. Of a convolution that includes its
    tap: one that only ever meets padding is on no path. What comes from biases, tokens and position tables
    alone is no input: the entries that pass it on are on no path.

    The network runs in float64 with positive random values in the kept entries, norms and gates, on a
    positive random input, so that no sum cancels; each activation passes derivatives on unchanged, so that no
    unit is dead or saturated; maximum pooling passes them on from its whole window. An entry is then on a
    path exactly if its share in the directional derivative of the output is not zero. That is exact for
    feed-forward, convolutional and residual networks with squeeze-and-excitation, gated units and attention.

    Not decided exactly, and then counted as on a path: entries of embedding tables (any token may come),
    experts that no token was sent to, weights that act on parameters alone (a network that makes position
    biases). Dilated or dictionary-like maxima follow only the winner of each draw, and a selection by value
    (top-k, sorting) only what was selected: more ``draws`` see more. Weight standardisation makes removed
    entries act, so that their row connects whatever the mask says.

    Args:
        view: the network; its parameters' values do not matter and are not changed.
        mask: what is kept; other weights are whole.
        draws: independent draws of the random values, whose findings are united.
        seed: of the draws.

    Returns:
        Mask of the same names, a subset of ``mask``. Cost: per draw one forward-mode pass with a backward
        pass through it, for one example in float64 (on a CPU about twenty of its forward passes in float32).

    Raises:
        BadInput: the network takes integers only, has no forward-mode derivative, or overflows.

    Source: Vysogorets & Kempe 2023, arXiv 2107.02306 (effective sparsity).

    Example:
        >>> from sigprune import Mask, describe
        >>> view = describe(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)))
        >>> first, last = torch.ones(2, 2).bool(), torch.tensor([[True, False]])
        >>> effective(view, Mask({"0.weight": first, "1.weight": last})).keep["0.weight"]
        tensor([[ True,  True],
                [False, False]])
    """
    expect_view(view)
    view = view.using("fresh")
    found = {name: torch.zeros_like(keep) for name, keep in mask.keep.items()}
    for draw in range(draws):
        for name, on_path in _on_paths(view, mask, f"{seed}/{draw}").items():
            found[name] |= on_path
    _count_undecided_(view, mask, found, f"{seed}/0")
    return Mask({name: on_path & mask.keep[name] for name, on_path in found.items()})


def connected(view: View, mask: Mask) -> bool:
    """Whether any path leads from the input to the output of the masked network.

    The network runs as for :func:`effective`: a path is one for some values of the kept entries.

    Cost: one forward-mode pass for one example in float64, without a graph.

    Raises:
        BadInput: the network takes integers only, or has no forward-mode derivative.
    """
    view = view.using("fresh")
    params = _positive(view, mask, "0/0")
    try:
        with _followed():
            output = view.forward(params, _moving_input(view, params, "0/0"))
            tangent = forward_ad.unpack_dual(output).tangent
    except (RuntimeError, NotImplementedError) as error:
        raise BadInput(f"the paths of {view.architecture} cannot be followed: {one_line(error)}") from error
    return tangent is not None and bool(tangent.any())


def responds(view: View, mask: Mask) -> bool:
    """Whether the output of the masked network, with its own values, responds to its example.

    Then a path leads from the input to the output; where it does not respond, one may still lead there
    (:func:`connected`): a unit is inactive for this example, or a derivative too small for its dtype.

    Cost: a forward and a backward pass for one example, and a copy of the masked weights.
    """
    view = view.using("fresh")
    params = view.params()
    masked = {name: params[name].detach().masked_fill(~keep, 0) for name, keep in mask.keep.items()}
    batch = view.embedded({**params, **masked}, view.example)
    leaves = {
        name: x.detach().clone().requires_grad_() for name, x in batch.inputs.items() if x.is_floating_point()
    }
    if not leaves:
        return False
    moved = replace(batch, inputs={**batch.inputs, **{name: x.clone() for name, x in leaves.items()}})
    with torch.enable_grad():
        output = view.forward(masked, moved)
    if not output.requires_grad:
        return False
    weights = _draw(tuple(output.shape), "responds").to(output.device, output.dtype)
    felt = torch.autograd.grad(output, list(leaves.values()), weights, allow_unused=True)
    return any(bool(one.nan_to_num(0.0, 0.0, 0.0).any()) for one in felt if one is not None)


@dataclass(frozen=True)
class DeadUnits:
    """Output units of which no entry lies on a path.

    Attributes:
        dead: weight name -> (how many, of how many).
    """

    dead: Mapping[str, tuple[int, int]]

    @property
    def share(self) -> float:
        """Dead units over all units of the masked weights."""
        counts = self.dead.values()
        return sum(dead for dead, _ in counts) / max(sum(total for _, total in counts), 1)


def dead_units(view: View, on_path: Mask) -> DeadUnits:
    """Units (rows of each block: neurons, output channels) that connect nothing, of what ``effective`` gave.

    Such a unit has no kept incoming entry that the input reaches, or the output does not depend on it.
    Embedding tables and biases have no units of their own.
    """
    dead = {}
    for weight in view.weights:
        if weight.name not in on_path.keep or weight.role == "embedding":
            continue
        rows = [b.flatten(1).any(1) for b in weight.layout.blocks(on_path.keep[weight.name])]
        alive = torch.cat(rows)
        dead[weight.name] = (int((~alive).sum()), len(alive))
    return DeadUnits(dead)


def _on_paths(view: View, mask: Mask, draw: str) -> dict[str, Tensor]:
    """Where the directional derivative of the output depends on the entries, in one draw."""
    params = _positive(view, mask, draw)
    biases = {name for name in mask.keep if name not in {w.name for w in view.weights}}
    weights = [name for name in mask.keep if name not in biases]
    leaves = {name: params[name].requires_grad_() for name in weights}
    shares = _shares(view, params, leaves, draw, {})
    if biases:  # have no input: a tangent of their own shows whether the output depends on their unit
        sources = {name: torch.ones_like(params[name]).requires_grad_() for name in biases}
        shares |= _shares(view, params, sources, draw, sources)
    return {name: (share != 0).cpu() for name, share in shares.items()}


def _shares(view: View, params: Tensors, leaves: Tensors, draw: str, sources: Tensors) -> Tensors:
    """Derivative of the output's tangent by the leaves; the input, and ``sources`` too, have tangents."""
    try:
        with _followed():
            duals = {name: forward_ad.make_dual(params[name], tangent) for name, tangent in sources.items()}
            output = view.forward({**params, **duals}, _moving_input(view, params, draw))
            tangent = forward_ad.unpack_dual(output).tangent
        if tangent is None:
            raise BadInput(f"no path leads from the input of {view.architecture} to its output")
        if not tangent.requires_grad:  # in these leaves it has no part
            return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        share = torch.autograd.grad(_weigh(tangent, draw), list(leaves.values()), allow_unused=True)
    except (RuntimeError, NotImplementedError) as error:
        raise BadInput(f"the paths of {view.architecture} cannot be followed: {one_line(error)}") from error
    filled = {
        n: torch.zeros_like(t) if s is None else s for (n, t), s in zip(leaves.items(), share, strict=True)
    }
    lost = next((name for name, s in filled.items() if not bool(s.isfinite().all())), None)
    if lost is not None:
        raise BadInput(f"the paths of {view.architecture} cannot be followed: overflow at {lost}")
    return filled


@contextmanager
def _without_cudnn() -> Iterator[None]:
    """As ``torch.backends.cudnn.flags(enabled=False)``, which changes other settings too."""
    enabled = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = enabled


@contextmanager
def _followed() -> Iterator[None]:
    """Tangents that follow paths; zeros stay exact (no Fourier or Winograd convolution)."""
    with (
        global_stream(0, "paths"),
        _without_cudnn(),
        torch.enable_grad(),
        differentiable(),
        forward_ad.dual_level(),
        Paths(),
    ):
        yield


def _positive(view: View, mask: Mask, draw: str) -> Tensors:
    """Random positive float64 parameters; kept entries of a row sum to about 1, so that nothing overflows.

    What is added (biases, norm shifts, tokens, position tables) is small.
    """
    weights = {weight.name: weight for weight in view.weights}
    params: Tensors = {}
    for name, own in view.params().items():
        if not own.is_floating_point():
            continue
        if view.skipped.get(name) in _AS_THEY_ARE:
            params[name] = own.double()
            continue
        values = _draw(tuple(own.shape), f"{draw}/{name}")
        if name in mask.keep:
            values.mul_(mask.keep[name])
        if name in weights:
            for block in weights[name].layout.blocks(values):
                kept = block.count_nonzero(tuple(range(1, block.dim()))).clamp_min(1)
                block.div_(kept.reshape(-1, *[1] * (block.dim() - 1)))
        elif view.skipped.get(name) not in {"gate", "norm scale"}:
            values.mul_(0.1)
        params[name] = values.to(own.device)
    return params


def _input(view: View, params: Tensors, draw: str) -> Batch:
    """One example, its floating-point inputs random and positive; token models start at their embeddings."""
    batch = view.example if view.embed is None else view.embed(view.example)
    inputs = {
        name: _draw(tuple(x.shape), f"{draw}/input {name}") if x.is_floating_point() else x
        for name, x in batch.inputs.items()
    }
    return replace(batch, inputs=inputs, labels=None).to(next(iter(params.values())).device)


def _moving_input(view: View, params: Tensors, draw: str) -> Batch:
    """The same, with a tangent of its own, in no relation to the values."""
    batch = _input(view, params, draw)
    moving = {
        name: forward_ad.make_dual(x, _draw(tuple(x.shape), f"{draw}/tangent {name}").to(x.device))
        for name, x in batch.inputs.items()
        if x.is_floating_point()
    }
    if not moving:
        raise BadInput(
            f"{view.architecture} takes integers ({', '.join(batch.inputs)}) and has no entry for "
            "embeddings: no path starts at its input"
        )
    return replace(batch, inputs={**batch.inputs, **moving})


def _draw(shape: tuple[int, ...], name: str) -> Tensor:
    """Uniform in [0.5, 1.5)."""
    return 0.5 + torch.rand(shape, generator=generator(0, "paths", name), dtype=torch.float64)


def _weigh(output: Tensor, draw: str) -> Tensor:
    """A random positive combination of all outputs: the plain sum of normalised ones would be constant."""
    return (output * _draw(tuple(output.shape), f"{draw}/output").to(output.device)).sum()


def _count_undecided_(view: View, mask: Mask, found: dict[str, Tensor], draw: str) -> None:
    """Count the kept entries of what cannot be decided."""
    suspects = []
    for weight in view.weights:
        if weight.name not in found:
            continue
        on_path, keep = found[weight.name], mask.keep[weight.name]
        if weight.role == "embedding":
            on_path |= keep
        elif weight.role == "expert":
            for block, kept in zip(weight.layout.blocks(on_path), weight.layout.blocks(keep), strict=True):
                if not bool(block.any()):
                    block.copy_(kept)
        elif bool(keep.any()) and not bool(on_path.any()):
            suspects.append(weight.name)
    for name in _without_input(view, mask, suspects, draw):
        found[name] |= mask.keep[name]


def _without_input(view: View, mask: Mask, names: list[str], draw: str) -> list[str]:
    """Those of the weights that the output depends on, but that no input ever meets, with nothing removed."""
    if not names:
        return []
    whole = Mask.dense({name: tuple(keep.shape) for name, keep in mask.keep.items()})
    params = _positive(view, whole, draw)
    leaves = {name: params[name].requires_grad_() for name in names}
    met = _shares(view, params, leaves, draw, {})
    with _followed():
        output = view.forward(params, _input(view, params, draw))  # without a tangent: as torch has it
    if not output.requires_grad:
        return []
    felt = torch.autograd.grad(_weigh(output, draw), list(leaves.values()), allow_unused=True)
    return [
        name
        for name, share in zip(names, felt, strict=True)
        if share is not None and bool(share.any()) and not bool(met[name].any())
    ]
