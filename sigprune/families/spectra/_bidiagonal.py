"""Golub-Kahan bidiagonalisation of many maps at once, with full re-orthogonalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.values.operator import Operator


@dataclass(frozen=True, eq=False)
class Bidiagonal:
    """J Vᵀ = Uᵀ B + β uₖ₊₁ eₖᵀ and Jᵀ Uᵀ = Vᵀ Bᵀ for each run (one probe of one example), all in float64.

    Attributes:
        left: U, shape (runs, k, outputs), orthonormal rows; the first is the probe.
        right: V, shape (runs, k, inputs), orthonormal rows.
        diagonal: of B, shape (runs, k).
        below: the diagonal below it, shape (runs, k); the last entry is β.
    """

    left: Tensor
    right: Tensor
    diagonal: Tensor
    below: Tensor

    def matrix(self) -> Tensor:
        """B with β as a row below it: shape (runs, k + 1, k)."""
        upper = torch.nn.functional.pad(self.diagonal.diag_embed(), (0, 0, 0, 1))
        return upper + torch.nn.functional.pad(self.below.diag_embed(), (0, 0, 1, 0))


def bidiagonalise(
    operator: Operator, generator: torch.Generator, steps: int, probes: int, max_memory_gib: float
) -> Bidiagonal:
    """``steps`` steps from each probe; run p * examples + e is that of probe p and example e.

    Probes are uniform on the unit sphere of the outputs. A step is one product each way, for all runs at
    once; the very last one is left out where the probe's side is exhausted. Where the space that a probe can
    reach is exhausted, a coefficient is zero, and the run goes on with a random vector orthogonal to it.

    Raises:
        BadInput: more steps than the smaller side, or vectors of more than ``max_memory_gib`` GiB.
    """
    (outputs, inputs), runs = operator.shape, probes * operator.examples
    if steps > min(outputs, inputs):
        raise BadInput(f"expected at most {min(outputs, inputs)} steps, got {steps}")
    needed = runs * steps * (outputs + inputs) * 8 / 2**30
    if needed > max_memory_gib:
        raise BadInput(
            f"{steps} Lanczos vectors of {runs} runs take {needed:.3g} GiB, over the limit "
            f"max_memory_gib={max_memory_gib:g}; take fewer steps or probes (recipe: measure.method), or "
            "fewer examples"
        )
    draws = torch.randn(runs, outputs, generator=generator, dtype=torch.float64).to(operator.device)
    left, right = draws.new_zeros(runs, steps, outputs), draws.new_zeros(runs, steps, inputs)
    diagonal, below = draws.new_zeros(runs, steps), draws.new_zeros(runs, steps)
    unit, scale = draws / draws.norm(dim=1, keepdim=True), draws.new_zeros(runs)
    tiny = 10 * torch.finfo(operator.dtype).eps
    for step in range(steps):
        left[:, step] = unit
        product = _product(operator.rmatmat, unit, operator)
        diagonal[:, step], unit = _next(product, right[:, :step], tiny * scale, generator)
        right[:, step] = unit
        scale = scale.maximum(diagonal[:, step])
        if step + 1 == outputs:
            break
        product = _product(operator.matmat, unit, operator)
        below[:, step], unit = _next(product, left[:, : step + 1], tiny * scale, generator)
        scale = scale.maximum(below[:, step])
    return Bidiagonal(left, right, diagonal, below)


def _product(product: Callable[[Tensor], Tensor], vectors: Tensor, operator: Operator) -> Tensor:
    """The product in the operator's dtype; runs stand as (probes, examples) in it."""
    many = vectors.to(operator.dtype).unflatten(0, (-1, operator.examples))
    return product(many).to(torch.float64).flatten(0, 1)


def _next(vectors: Tensor, basis: Tensor, tiny: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Length and direction of what is orthogonal to the basis; where it is tiny, 0 and any direction."""
    rest = _orthogonal(vectors, basis)
    lengths = rest.norm(dim=1)
    lost = lengths <= tiny
    if bool(lost.any()):
        draws = torch.randn(len(rest), rest.shape[1], generator=generator, dtype=torch.float64)
        rest = torch.where(lost[:, None], _orthogonal(draws.to(rest.device), basis), rest)
    return torch.where(lost, 0.0, lengths), rest / rest.norm(dim=1, keepdim=True)


def _orthogonal(vectors: Tensor, basis: Tensor) -> Tensor:
    """Gram-Schmidt, twice: once leaves rounding errors of the size of what was taken away."""
    for _ in range(2):
        parts = torch.einsum("rkd,rd->rk", basis, vectors)
        vectors = vectors - torch.einsum("rk,rkd->rd", parts, basis)
    return vectors
