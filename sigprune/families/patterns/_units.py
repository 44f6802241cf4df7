"""Units (tiles of the matrix of a block) that are kept or removed whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from sigprune.base.errors import BadInput
from sigprune.families.patterns import Allocate
from sigprune.values.layout import Shape
from sigprune.values.ranking import CHUNK, Ranking, Site

Tile = Callable[[Shape], tuple[int, int]]
"""(rows, columns) of a matrix -> (rows, columns) of a unit; units at its edges may be smaller."""


def whole_units(ranking: Ranking, allocate: Allocate, tile: Tile) -> dict[str, Tensor]:
    """Keep the units with the highest mean scores, as many as the allocation pays for.

    The allocation sees every entry with the mean score of its unit, and gives each weight a number of
    entries. A weight takes its best units as long as they fit into that number. What is left over in all
    buys one more unit for the weights that miss the least of one (the largest remainder first, ties in random
    order), where it still fits. So never more is kept than the budget, and less by less than the largest
    unit: if the money ran out before a weight, it was short of that weight's unit; if not, it is all spent.

    Args:
        ranking: entries of one unit were removed together, or none of them.
        allocate: the allocation.
        tile: the units of a matrix.

    Memory: the means are written over the scores; a sixteenth of the scores for the order of units of 16
    entries, the masks, one block.

    Raises:
        BadInput: the budget does not pay for one unit.
    """
    units, spread = {}, {}
    for name in list(ranking.scores):
        spread[name] = ranking.take(name).contiguous()
        units[name] = _units(spread[name], ranking.sites[name], ranking.ties(name), tile)
    counts = allocate(replace(ranking, scores=spread))
    shapes = {name: scores.shape for name, scores in spread.items()}
    spread.clear()
    numbers = _whole(ranking, units, counts)
    return {name: units[name].keep(shapes[name], number) for name, number in numbers.items()}


@dataclass(frozen=True, eq=False)
class _Units:
    """The units of one weight.

    Attributes:
        site: where the blocks sit.
        tiles: block -> rows and columns of its units.
        shapes: block -> rows and columns of its matrix.
        order: all units, best first; ties in random order.
    """

    site: Site
    tiles: list[tuple[int, int]]
    shapes: list[tuple[int, int]]
    order: Tensor

    def grids(self) -> list[tuple[Tensor, Tensor]]:
        """Block -> heights of its rows of units, and widths of its columns of units."""
        pairs = zip(self.shapes, self.tiles, strict=True)
        return [(_lengths(n, height), _lengths(m, width)) for (n, m), (height, width) in pairs]

    def paid(self) -> Tensor:
        """Entries in the first k units of the order, k = 0 ... all of them (made anew: it is as long)."""
        sizes = torch.cat([torch.outer(*grid).reshape(-1) for grid in self.grids()])
        return functional.pad(sizes[self.order.long()].cumsum(0), (1, 0))

    def keep(self, shape: Shape, number: int) -> Tensor:
        """The mask of the first units of the order."""
        chosen = torch.zeros(len(self.order), dtype=torch.bool)
        chosen[self.order[:number].long()] = True
        keep = torch.empty(shape, dtype=torch.bool)
        grids = [(len(heights), len(widths)) for heights, widths in self.grids()]
        flags = chosen.split([tall * wide for tall, wide in grids])
        for rows, flag, grid, tile in zip(self.site.rows(keep), flags, grids, self.tiles, strict=True):
            _spread_(rows, flag.reshape(grid), *tile)
        return keep


def _spread_(rows: Tensor, values: Tensor, height: int, width: int) -> None:
    """Give every entry of a block the value of its unit."""
    step = _band(rows, height)
    for part, few in zip(rows.split(step), values.split(step // height), strict=True):
        tall, wide = few.shape
        tiles = few.to(rows.device, rows.dtype)[:, None, :, None].expand(tall, height, wide, width)
        matrix = tiles.reshape(tall * height, wide * width)[: len(part), : part[0].numel()]
        part.copy_(matrix.reshape(part.shape))


def _band(rows: Tensor, height: int) -> int:
    """How many rows of a block are looked at together: whole units of them."""
    return height * max(CHUNK // (height * rows[0].numel()), 1)


def _units(scores: Tensor, site: Site, generator: torch.Generator, tile: Tile) -> _Units:
    """The units of a weight; their means are written over its scores."""
    tiles, shapes, means = [], [], []
    for rows in site.rows(scores):
        count, columns = len(rows), rows[0].numel()
        height, width = (min(pair) for pair in zip(tile((count, columns)), (count, columns), strict=True))
        tiles.append((height, width))
        shapes.append((count, columns))
        means.append(_means(rows, height, width))
        _spread_(rows, means[-1], height, width)
    everything = torch.cat([part.reshape(-1) for part in means])
    shuffled = torch.randperm(len(everything), generator=generator)
    order = shuffled[everything[shuffled].argsort(descending=True, stable=True)]
    # those of all weights are held at once
    return _Units(site, tiles, shapes, order.to(torch.int32 if len(order) < 2**31 else torch.int64))


def _means(rows: Tensor, height: int, width: int) -> Tensor:
    """Mean of every unit; those at the edges over the entries that they have."""
    parts = (part.flatten(1).double() for part in rows.split(_band(rows, height)))
    pooled = [functional.avg_pool2d(part[None], (height, width), ceil_mode=True)[0] for part in parts]
    return torch.cat(pooled).cpu()


def _lengths(total: int, step: int) -> Tensor:
    return torch.tensor([min(step, total - start) for start in range(0, total, step)])


def _whole(ranking: Ranking, units: dict[str, _Units], counts: dict[str, int]) -> dict[str, int]:
    """Name -> number of whole units, by largest remainder."""
    numbers: dict[str, int] = {}
    price: dict[str, int] = {}
    missed: dict[str, float] = {}
    rest = ranking.budget
    for name, count in counts.items():
        paid = units[name].paid()
        numbers[name] = int(torch.searchsorted(paid, count, right=True)) - 1
        spent = int(paid[numbers[name]])
        rest -= spent
        if numbers[name] + 1 < len(paid):
            price[name] = int(paid[numbers[name] + 1]) - spent
            missed[name] = (count - spent) / price[name]
    names = list(price)
    shuffled = [names[i] for i in torch.randperm(len(names), generator=ranking.generator).tolist()]
    for name in sorted(shuffled, key=lambda n: -missed[n]):
        if missed[name] > 0 and price[name] <= rest:
            numbers[name] += 1
            rest -= price[name]
    if ranking.budget and not any(numbers.values()):
        raise BadInput(
            f"a budget of {ranking.budget} entries pays for no whole unit (the best of "
            f"{min(price, key=lambda n: price[n])} has {min(price.values())}): lower the sparsity, or take "
            "smaller units"
        )
    return numbers
