"""Scores entry by entry, straight from their definitions, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional


def eval_copy(module: nn.Module) -> nn.Module:
    """A float64 copy in evaluation mode with fresh BatchNorm statistics."""
    twin = copy.deepcopy(module).double().eval()
    for part in twin.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
    return twin


def mean_cross_entropy(run: Callable[[Tensor], Tensor], batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The mean over all examples of all batches, one example at a time."""
    pairs = [(x.double(), y) for inputs, labels in batches for x, y in zip(inputs, labels, strict=True)]
    losses = [functional.cross_entropy(run(x[None]), y[None]) for x, y in pairs]
    return torch.stack(losses).mean()


def snip_by_removal(
    module: nn.Module,
    name: str,
    batches: list[tuple[Tensor, Tensor]],
    entries: Iterable[int],
    step: float = 1e-6,
) -> Tensor:
    """|dL/dc| for some entries by central differences in their multipliers c; L is the mean over examples.

    Args:
        entries: places in the flattened weight.

    Returns:
        One number per entry, (entries,), float64.
    """
    twin = eval_copy(module)
    weight = dict(twin.named_parameters())[name]
    flat = weight.data.reshape(-1)
    scores = []

    def loss() -> float:
        with torch.no_grad():
            return float(mean_cross_entropy(twin, batches))

    for index in entries:
        value = float(flat[index])
        flat[index] = value * (1 + step)
        above = loss()
        flat[index] = value * (1 - step)
        below = loss()
        flat[index] = value
        scores.append(abs(above - below) / (2 * step))
    return torch.tensor(scores, dtype=torch.float64)


def synflow_of_mlp(weights: list[Tensor], biases: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
    """|w_ij| times the flow into j times the flow out of i, for ReLU layers and a ones input."""
    weights = [w.double().abs() * m for w, m in zip(weights, masks, strict=True)]
    inward = [torch.ones(weights[0].shape[1], dtype=torch.float64)]
    for w, b in zip(weights, biases, strict=True):
        inward.append(w @ inward[-1] + b.double().abs())
    outward = [torch.ones(weights[-1].shape[0], dtype=torch.float64)]
    for w in reversed(weights):
        outward.insert(0, w.T @ outward[0])
    return [w * outward[i + 1][:, None] * inward[i][None, :] for i, w in enumerate(weights)]


def keep_top(scores: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The ``count`` highest of all entries by a full sort (scores without ties)."""
    ranked = sorted(
        ((float(v), name, i) for name, t in scores.items() for i, v in enumerate(t.reshape(-1))), reverse=True
    )
    keep = {name: torch.zeros(t.numel(), dtype=torch.bool) for name, t in scores.items()}
    for _, name, index in ranked[:count]:
        keep[name][index] = True
    return {name: flags.reshape(scores[name].shape) for name, flags in keep.items()}
