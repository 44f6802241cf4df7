"""Rankings over weights of every layout, and the allocations that tests give to patterns."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from sigprune.base.rng import generator
from sigprune.values.layout import Layout
from sigprune.values.ranking import Ranking, Site

SITES = {
    "stem": ((8, 3, 3, 3), Site(((8, 3, 3, 3),), Layout(), "conv", stem=True)),
    "conv": ((16, 8, 3, 3), Site(((16, 8, 3, 3),), Layout(), "conv")),
    "grouped": ((12, 4, 3, 3), Site(((3, 4, 3, 3),) * 4, Layout(groups=4), "conv")),
    "transposed": ((8, 6, 2, 2), Site(((6, 8, 2, 2),), Layout(transposed=True), "conv")),
    "conv1d": ((8, 12), Site(((12, 8),), Layout(transposed=True), "linear")),
    "experts": ((3, 10, 8), Site(((10, 8),) * 3, Layout(stacked=True), "expert")),
    "fused": ((24, 16), Site(((8, 16),) * 3, Layout(fused=(8, 8, 8)), "attention")),
    "alternating": ((12, 8), Site(((6, 8),) * 2, Layout(fused=(6, 6), interleaved=True), "linear")),
    "linear": ((5, 20), Site(((5, 20),), Layout(), "linear")),
    "bias": ((5,), Site(((5,),), None, "bias")),
}
"""Name -> stored shape and site."""

HEAD = {"head": ((10, 32), Site(((10, 32),), Layout(), "head"))}

Entries = Mapping[str, tuple[tuple[int, ...], Site]]


def total(entries: Entries = SITES) -> int:
    """Number of entries of all weights."""
    return sum(math.prod(shape) for shape, _ in entries.values())


def ranking(
    budget: int, seed: int = 0, *, tied: bool = False, removed: float = 0.0, entries: Entries = SITES
) -> Ranking:
    """Uniform (or equal) scores; entries are removed at random."""
    draw = generator(seed, "test", "ranking")
    scores, left = {}, {}
    for name, (shape, _) in entries.items():
        values = torch.rand(shape, generator=draw)
        left[name] = torch.rand(shape, generator=draw) >= removed
        scores[name] = values * (not tied)
    return of_scores(scores, budget, seed, entries, left=left)


def of_scores(
    scores: Mapping[str, torch.Tensor],
    budget: int,
    seed: int = 0,
    entries: Entries = SITES,
    *,
    left: Mapping[str, torch.Tensor] | None = None,
) -> Ranking:
    """A ranking of given scores over the entries; nothing was removed earlier, or what ``left`` says."""
    left = left or {name: torch.ones(values.shape, dtype=torch.bool) for name, values in scores.items()}
    return Ranking(
        dict(scores),
        {name: int(flags.sum()) for name, flags in left.items()},
        {name: site for name, (_, site) in entries.items()},
        budget,
        generator(seed, "test", "allocate"),
        lambda name: generator(seed, "test", name),
        {name: flags for name, flags in left.items() if not bool(flags.all())},
    )


def matrices(site: Site, tensor: torch.Tensor) -> list[torch.Tensor]:
    """The blocks (out, columns) entry by entry, as the layouts are documented, channels last; none shared.

    Written apart from :meth:`Site.rows`, so that patterns are not judged by what they use themselves.
    """
    if site.layout is None:
        return [tensor[:, None]]
    layout, blocks = site.layout, []
    for expert in list(tensor) if layout.stacked else [tensor]:
        size = len(expert) // layout.groups
        for index in range(layout.groups):
            group = expert[index * size : (index + 1) * size]
            group = group.transpose(0, 1) if layout.transposed else group
            start = 0
            for number, rows in enumerate(layout.fused or (len(group),)):
                step = len(layout.fused)
                blocks.append(group[number::step] if layout.interleaved else group[start : start + rows])
                start += rows
    flat = []
    for block in blocks:
        out = len(block)
        places = block.reshape(out, block.shape[1], -1)
        flat.append(torch.stack([places[:, :, k] for k in range(places.shape[2])], 1).reshape(out, -1))
    return flat
