"""L-BFGS with exact line search on || B Bᵀ - I ||²_F over the kept entries; kernels or convolutions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from sigprune.base.registry import Count, Positive
from sigprune.families.repairs._support import Support
from sigprune.values.orthogonality import floor, residual, weights

PAPER = "Lee et al. 2020, arXiv 1906.06307, section 4 (objective); Liu and Nocedal 1989 (L-BFGS)"

_ENTRIES = 2**23
"""So many entries, with those of the transforms and Gram matrices, are worked on at once."""
_REFRESH = 20
"""The Gram matrix follows from the last one, and is made anew after so many steps."""
_PATIENCE, _STALLED = 10, 0.9999
"""A block is done once its residual is above this part of what it was so many steps before."""


def restore(
    blocks: Tensor,
    keep: Tensor,
    *,
    steps: Count = 500,
    tolerance: Positive = 1e-4,
    memory: Count = 5,
    target: Literal["kernel", "operator"] = "kernel",
    thin: bool = False,
) -> Tensor:
    """Every block to its own tolerance or stationary point, all blocks of one shape together.

    Along a line the objective is a polynomial of degree 4, so that each block takes its exact minimum.
    Rows and columns that keep nothing are left out first, and blocks that are done leave the batch. A block
    is done at a residual of ``tolerance`` beyond what empty rows and columns force, or where it has fallen by
    less than 0.01 % in 10 steps. Cost per step: three products with the smaller Gram matrix, real, or complex
    at prod(2 · kernel - 1) / 2 frequencies for the ``operator``.

    A block with fewer kept entries than orthogonality conditions, rows · (rows + 1) / 2, is isometric only if
    most of its kept entries are zero. Where the descent does not get there by itself, it ends at a
    stationary point that uses all of them; with ``thin`` such a block starts once more, a third of the steps
    with the larger half of its kept entries and the rest zero, then with all, and the better end is taken.

    Args:
        blocks: (count, out, in, *kernel).
        keep: boolean, what may be other than zero.
        steps: at most, of each start.
        tolerance: a residual.
        memory: how many steps the curvature is estimated from.
        target: whether the flattened kernel (out, in · taps) or the convolution is to be isometric.
        thin: whether blocks that end above their floor start again from half of their entries.
    """
    shape = blocks.shape
    if target == "kernel":
        blocks, keep = blocks.flatten(2), keep.flatten(2)
    each = max(blocks[0].numel(), min(blocks.shape[1:3]) ** 2) * len(weights(blocks.shape[3:]))
    limit = max(_ENTRIES // each, 1)
    parts = zip(blocks.split(limit), keep.split(limit), strict=True)
    solved = torch.cat([_best(*part, steps, tolerance, memory, thin=thin) for part in parts])
    return solved.reshape(shape)


def _best(blocks: Tensor, keep: Tensor, steps: int, tolerance: float, memory: int, *, thin: bool) -> Tensor:
    """The lowest residual of every block among its starts, the block as it is included."""
    best, lowest = blocks.clone(), residual(blocks, "operator")
    bound = floor(keep, "operator").to(lowest).square() + tolerance**2
    for half in (False, True)[: 1 + thin]:
        left = (lowest.square() > bound).nonzero()[:, 0]
        if not len(left):
            break
        start, kept = blocks[left], keep[left]
        if half:
            start = _solve(start, _larger_half(start, kept), -(-steps // 3), tolerance, memory)
        solved = _solve(start, kept, steps, tolerance, memory)
        reached = residual(solved, "operator")
        better = reached < lowest[left]
        best[left[better]], lowest[left[better]] = solved[better], reached[better]
    return best


def _larger_half(blocks: Tensor, keep: Tensor) -> Tensor:
    """The kept entries of every block whose size is at least their median."""
    size = blocks.abs().masked_fill(~keep, -1.0).flatten(1)
    middle = (keep.flatten(1).sum(1) // 2).sub(1).clamp(min=0)
    limit = size.sort(dim=1, descending=True).values.gather(1, middle[:, None])
    return keep & (size >= limit).reshape(keep.shape)


@dataclass
class _Run:
    """Where the descents of some blocks are; the first axis of every tensor counts the blocks.

    Attributes:
        support: where the kept entries sit.
        values: the kept entries, (count, entries).
        gram: B Bᵀ - I at every frequency, I only at rows that keep an entry.
        gradient: of a quarter of the squared residual.
        moves: the last steps, (count, memory, entries).
        changes: of the gradient in these steps.
        inverses: 1 / <move, change>, or 0 where that is not positive: such a pair is not used.
        scale: of the first guess of the inverse Hessian, (count, 1).
        residual: (count,).
        mark: the residual some steps ago.
    """

    support: Support
    values: Tensor
    gram: Tensor
    gradient: Tensor
    moves: Tensor
    changes: Tensor
    inverses: Tensor
    scale: Tensor
    residual: Tensor
    mark: Tensor

    def take(self, chosen: Tensor) -> _Run:
        """That of some of the blocks."""
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        support = state.pop("support").take(chosen)
        return _Run(support, **{name: value[chosen] for name, value in state.items()})


def _solve(blocks: Tensor, keep: Tensor, steps: int, tolerance: float, memory: int) -> Tensor:
    """The last iterate of every block, whose residual is its lowest: no step goes up."""
    solved = blocks.masked_fill(~keep, 0.0)
    run = _begin(solved, keep, memory)
    left = torch.arange(len(blocks), device=blocks.device)
    for number in range(steps):
        done = run.residual <= tolerance
        if number % _PATIENCE == 0:
            done |= run.residual > _STALLED * run.mark
            run.mark = run.residual
        if bool(done.any()):
            solved[left[done]] = run.support.take(done).scatter(run.values[done], blocks.shape[1:])
            run, left = run.take(~done), left[~done]
        if not len(left):
            return solved
        _advance(run, number)
    solved[left] = run.support.scatter(run.values, blocks.shape[1:])
    return solved


def _begin(blocks: Tensor, keep: Tensor, memory: int) -> _Run:
    support = Support.of(keep)
    values = support.gather(blocks)
    history = values.new_zeros(len(values), memory, values.shape[1])
    ones = values.new_ones(len(values), 1)
    gram, gradient = _slope(support, values, None)
    size = _inner(gram, gram, support.shape[2:]).sqrt()
    return _Run(
        support, values, gram, gradient, history, history.clone(), history[..., 0].clone(), ones / 2, size,
        torch.full_like(size, torch.inf),
    )  # fmt: skip


def _slope(support: Support, values: Tensor, gram: Tensor | None) -> tuple[Tensor, Tensor]:
    """B Bᴴ - I, made anew if it is not given, and the gradient: the kept entries of (B Bᴴ - I) B."""
    matrices = support.matrices(values)
    if gram is None:
        gram = matrices @ matrices.mH
        gram.diagonal(dim1=2, dim2=3).sub_(support.rows[:, None].to(values))
    return gram, support.adjoint(gram @ matrices)


def _advance(run: _Run, number: int) -> None:
    """One step: the direction, the exact minimum along it, the new curvature pair."""
    support, kernel = run.support, run.support.shape[2:]
    direction = _direction(run, number)
    ahead, here = support.matrices(direction), support.matrices(run.values)
    # along t the Gram matrix is G + t (B Dᴴ + D Bᴴ) + t² D Dᴴ, and its squared norm a polynomial
    cross = here @ ahead.mH
    cross, own = cross + cross.mH, ahead @ ahead.mH
    powers = torch.stack([
        4 * _dot(run.gradient, direction),
        _inner(cross, cross, kernel) + 2 * _inner(run.gram, own, kernel),
        2 * _inner(cross, own, kernel),
        _inner(own, own, kernel),
    ])
    length = _lowest(powers).to(direction)[:, None]
    move = length * direction
    run.values = run.values + move
    far = length[:, :, None, None]
    known = None if number % _REFRESH == _REFRESH - 1 else run.gram + far * cross + far.square() * own
    run.gram, gradient = _slope(support, run.values, known)
    run.residual = _inner(run.gram, run.gram, kernel).sqrt()
    change = gradient - run.gradient
    curvature, size = _dot(move, change), _dot(change, change)
    usable = curvature > 1e-10 * size
    slot = number % run.moves.shape[1]
    run.moves[:, slot], run.changes[:, slot] = move, change
    run.inverses[:, slot] = torch.where(usable, 1 / curvature, 0.0)
    run.scale = torch.where(usable, curvature / size, run.scale[:, 0])[:, None]
    run.gradient = gradient


def _direction(run: _Run, number: int) -> Tensor:
    """The two loops of L-BFGS; downhill in any case."""
    memory = run.moves.shape[1]
    pairs = [(number - back) % memory for back in range(1, min(number, memory) + 1)]
    result, shares = -run.gradient, {}
    for pair in pairs:
        shares[pair] = (run.inverses[:, pair] * _dot(run.moves[:, pair], result))[:, None]
        result = result - shares[pair] * run.changes[:, pair]
    result = run.scale * result
    for pair in reversed(pairs):
        share = (run.inverses[:, pair] * _dot(run.changes[:, pair], result))[:, None]
        result = result + (shares[pair] - share) * run.moves[:, pair]
    downhill = _dot(result, run.gradient) < 0
    return torch.where(downhill[:, None], result, -run.gradient)


def _lowest(powers: Tensor) -> Tensor:
    """The t >= 0 where a t + b t² + c t³ + d t⁴ is lowest, d >= 0, for (4, count) coefficients; float64.

    The zeros of the derivative are the eigenvalues of its companion matrix; of complex ones the real part is
    tried too, which does no harm.
    """
    powers = powers.double().cpu()
    first, second, third, fourth = powers
    companion = powers.new_zeros(powers.shape[1], 3, 3)
    companion[:, 1, 0] = companion[:, 2, 1] = 1.0
    companion[:, :, 2] = -torch.stack([first, 2 * second, 3 * third], 1) / (4 * fourth[:, None])
    roots = torch.linalg.eigvals(companion.nan_to_num(0.0, 0.0, 0.0)).real.clamp(min=0.0)
    heights = roots * (
        first[:, None] + roots * (second[:, None] + roots * (third[:, None] + roots * fourth[:, None]))
    )
    lowest = heights.argmin(1, keepdim=True)
    length: Tensor = roots.gather(1, lowest) * (heights.gather(1, lowest) < 0)
    return length[:, 0]


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(1)


def _inner(one: Tensor, other: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """Real part of the inner product, the mean over frequencies."""
    products = torch.linalg.vecdot(one.flatten(2), other.flatten(2)).real
    mean: Tensor = products @ weights(kernel).to(products)
    return mean
