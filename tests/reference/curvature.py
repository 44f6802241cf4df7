"""Second-order scores from explicit Hessians, and by differences through training, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from tests.reference.scores import eval_copy, mean_cross_entropy

Named = dict[str, Tensor]


def grasp_by_hessian(module: nn.Module, keep: Named, batches: list, temperature: float) -> Named:
    """θ ⊙ (H g) of the mean loss of all examples, H row by row, g without the removed entries."""
    twin = eval_copy(module)
    masked = {n: (dict(twin.named_parameters())[n] * k).detach() for n, k in keep.items()}
    sizes = [t.numel() for t in masked.values()]

    def loss(flat: Tensor) -> Tensor:
        parts = zip(masked.items(), flat.split(sizes), strict=True)
        params = {name: part.reshape(value.shape) for (name, value), part in parts}
        return mean_cross_entropy(lambda x: functional_call(twin, params, (x,)) / temperature, batches)

    theta = torch.cat([t.reshape(-1) for t in masked.values()])
    kept = torch.cat([k.reshape(-1) for k in keep.values()])
    gradient = torch.func.grad(loss)(theta) * kept
    scores = theta * (torch.autograd.functional.hessian(loss, theta) @ gradient)
    return {n: s.reshape(masked[n].shape) for n, s in zip(masked, scores.split(sizes), strict=True)}


def prospr_by_differences(
    module: nn.Module, keep: Named, batches: list, *, steps: int, lr: float, momentum: float
) -> Named:
    """|dL/dm| by central differences: the initial value is scaled, torch's SGD trains, L is read."""

    def final_loss(name: str, index: int, factor: float) -> float:
        twin = eval_copy(module)
        params = dict(twin.named_parameters())
        with torch.no_grad():
            for n, k in keep.items():
                params[n].mul_(k)
            params[name].view(-1)[index] *= factor
        optimizer = torch.optim.SGD(twin.parameters(), lr=lr, momentum=momentum)
        for x, y in batches[:steps]:
            optimizer.zero_grad()
            functional.cross_entropy(twin(x.double()), y).backward()
            for n, k in keep.items():
                params[n].grad.mul_(k)
            optimizer.step()
        with torch.no_grad():
            return float(mean_cross_entropy(twin, batches[steps:]))

    return _differences(final_loss, keep)


def ntk_sap_by_masks(module: nn.Module, keep: Named, noise: Tensor, moves: Named) -> Named:
    """|∂/∂m| of ‖f(Z; θ⊙m) - f(Z; (θ+δ)⊙m)‖² by central differences in explicit masks."""
    twin = eval_copy(module)
    theta = {n: p.detach() for n, p in twin.named_parameters()}

    def distance(name: str, index: int, factor: float) -> float:
        masks = {n: k.double() for n, k in keep.items()}
        masks[name].view(-1)[index] *= factor
        here = {n: theta[n] * m for n, m in masks.items()}
        there = {n: (theta[n] + moves[n]) * m for n, m in masks.items()}
        gap = functional_call(twin, here, (noise,)) - functional_call(twin, there, (noise,))
        return float(gap.detach().square().sum())

    return _differences(distance, keep)


def _differences(value: Callable[[str, int, float], float], keep: Named, step: float = 1e-5) -> Named:
    """|∂ value / ∂ factor| at one for every entry of every name."""
    scores = {}
    for name, flags in keep.items():
        found = [
            abs(value(name, i, 1 + step) - value(name, i, 1 - step)) / (2 * step)
            for i in range(flags.numel())
        ]
        scores[name] = torch.tensor(found, dtype=torch.float64).reshape(flags.shape)
    return scores
