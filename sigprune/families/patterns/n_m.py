"""N of every M consecutive inputs of each output are kept (2:4 for sparse tensor cores)."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.base.registry import Count
from sigprune.families.patterns import Allocate
from sigprune.families.patterns._rows import best_in_rows
from sigprune.values.layout import fan_in
from sigprune.values.ranking import Ranking, Site

PAPER = "Mishra et al. 2021, arXiv 2104.08378 (2:4); Zhou et al. 2021, arXiv 2102.04010 (N:M)"
COUNTS: Literal["fixed"] = "fixed"


def select(
    ranking: Ranking,
    allocate: Allocate,  # noqa: ARG001 - every weight has the density n / m
    *,
    n: Count = 2,
    m: Count = 4,
    indivisible: Literal["dense", "refuse"] = "dense",
) -> dict[str, Tensor]:
    """The n best of every group of m, exactly.

    A group holds m consecutive inputs of one output of one block, as a matrix product meets them: along the
    input axis, and for convolutions channels last, so that the inputs at one place of the kernel follow each
    other and then those at the next (the order of sparse tensor-core kernels). Blocks are the layout's:
    groups cross no convolution group, expert or fused projection.

    Args:
        ranking: of the first and only round.
        allocate: not asked: the pattern fixes the counts.
        n: entries kept of each group.
        m: entries in each group.
        indivisible: weights whose inputs are no multiple of m (biases too) stay dense, or are refused.

    Linear time; memory: the masks, one block, and chunks of rows.

    Raises:
        BadInput: n above m; a sparsity that the pattern does not have (the message says which it has); a
            weight that is refused.
    """
    kept = counts(ranking, n=n, m=m, indivisible=indivisible)
    return {
        name: torch.ones(ranking.take(name).shape, dtype=torch.bool)
        if kept[name] == ranking.scores[name].numel()
        else _groups(ranking.take(name), ranking.sites[name], n, m, ranking.ties(name))
        for name in list(ranking.scores)
    }


def counts(ranking: Ranking, *, n: int, m: int, indivisible: str) -> dict[str, int]:
    """Entries that each weight keeps, whatever the scores.

    Raises:
        BadInput: as :func:`select`.
    """
    if n > m:
        raise BadInput(f"n_m: expected n <= m, got n = {n} and m = {m}")
    dense = [name for name, site in ranking.sites.items() if _inputs(site) % m]
    if dense and indivisible == "refuse":
        raise BadInput(
            f"n_m: {dense[0]} has {_inputs(ranking.sites[dense[0]])} inputs, expected a multiple of {m}; "
            "exclude it, or set indivisible: dense"
        )
    sizes = ranking.sizes()
    kept = {name: size if name in dense else size // m * n for name, size in sizes.items()}
    if (total := sum(kept.values())) == ranking.budget:
        return kept
    why = (
        f" ({dense[0]}{f' and {len(dense) - 1} more stay' if dense[1:] else ' stays'} dense, as "
        f"the inputs are no multiple of {m}: exclude what shall not count)"
        if dense
        else ""
    )
    raise BadInput(
        f"the pattern {n}:{m} keeps {total} of these {sum(sizes.values())} entries{why}: expected sparsity "
        f"{_sparsity(total, sum(sizes.values()))}, got one that keeps {ranking.budget}"
    )


def _inputs(site: Site) -> int:
    return 1 if site.layout is None else fan_in(site.blocks[0])


def _groups(scores: Tensor, site: Site, n: int, m: int, generator: torch.Generator) -> Tensor:
    scores = scores.contiguous()
    keep = torch.zeros(scores.shape, dtype=torch.bool)
    for rows, places in zip(site.rows(scores), site.rows(keep), strict=True):
        groups = rows.reshape(-1, m)
        best = best_in_rows(groups, torch.full((len(groups),), n), generator)
        places.copy_(best.reshape(places.shape))
    return keep


def _sparsity(kept: int, total: int) -> str:
    """The shortest decimal that rounds to the count."""
    exact = 1 - Fraction(kept, total)
    for digits in range(1, 18):
        text = f"{float(exact):.{digits}f}"
        if round(total * (1 - Fraction(text))) == kept:
            return text
    return str(float(exact))
