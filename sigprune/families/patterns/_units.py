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

    Memory: the expanded means (as much as the scores), the masks, one block.

    Raises:
        BadInput: the budget does not pay for one unit.
    """
    units = {name: _units(scores, ranking, name, tile) for name, scores in ranking.scores.items()}
    spread = {name: units[name].spread(scores) for name, scores in ranking.scores.items()}
    counts = allocate(replace(ranking, scores=spread))
    del spread
    numbers = _whole(ranking, units, counts)
    return {name: units[name].keep(ranking.scores[name], number) for name, number in numbers.items()}


@dataclass(frozen=True, eq=False)
class _Units:
    """The units of one weight.

    Attributes:
        site: where the blocks sit.
        tiles: block -> rows and columns of its units.
        means: block -> mean scores, float64 (unit rows, unit columns), on the CPU.
        order: all units, best first; ties in random order.
        paid: entries in the first k units of that order, k = 0 ... all of them.
    """

    site: Site
    tiles: list[tuple[int, int]]
    means: list[Tensor]
    order: Tensor
    paid: Tensor

    def spread(self, scores: Tensor) -> Tensor:
        """Every entry with the mean of its unit."""
        return self._spread([part.to(scores.device, scores.dtype) for part in self.means], scores)

    def keep(self, scores: Tensor, number: int) -> Tensor:
        """The mask of the first units of the order."""
        chosen = torch.zeros(len(self.order), dtype=torch.bool)
        chosen[self.order[:number]] = True
        parts = chosen.split([part.numel() for part in self.means])
        flags = [flag.reshape(part.shape) for flag, part in zip(parts, self.means, strict=True)]
        return self._spread(flags, scores)

    def _spread(self, values: list[Tensor], like: Tensor) -> Tensor:
        out = torch.empty(like.shape, dtype=values[0].dtype, device=values[0].device)
        for rows, part, (height, width) in zip(self.site.rows(out), values, self.tiles, strict=True):
            count, columns = len(rows), rows[0].numel()
            tall, wide = part.shape
            tiles = part[:, None, :, None].expand(tall, height, wide, width)
            matrix = tiles.reshape(tall * height, wide * width)[:count, :columns]
            rows.copy_(matrix.reshape(rows.shape))
        return out


def _units(scores: Tensor, ranking: Ranking, name: str, tile: Tile) -> _Units:
    site, generator = ranking.sites[name], ranking.ties(name)
    tiles, means, sizes = [], [], []
    for rows in site.rows(scores.contiguous()):
        count, columns = len(rows), rows[0].numel()
        height, width = (min(pair) for pair in zip(tile((count, columns)), (count, columns), strict=True))
        tiles.append((height, width))
        means.append(_means(rows, height, width))
        sizes.append(torch.outer(_lengths(count, height), _lengths(columns, width)).reshape(-1))
    everything = torch.cat([part.reshape(-1) for part in means])
    shuffled = torch.randperm(len(everything), generator=generator)
    order = shuffled[everything[shuffled].argsort(descending=True, stable=True)]
    paid = functional.pad(torch.cat(sizes)[order].cumsum(0), (1, 0))
    return _Units(site, tiles, means, order, paid)


def _means(rows: Tensor, height: int, width: int) -> Tensor:
    """Mean of every unit; those at the edges over the entries that they have."""
    step = height * max(CHUNK // (height * rows[0].numel()), 1)
    parts = [part.flatten(1).double() for part in rows.split(step)]
    pooled = [functional.avg_pool2d(part[None], (height, width), ceil_mode=True)[0] for part in parts]
    return torch.cat(pooled).cpu()


def _lengths(total: int, step: int) -> Tensor:
    return torch.tensor([min(step, total - start) for start in range(0, total, step)])


def _whole(ranking: Ranking, units: dict[str, _Units], counts: dict[str, int]) -> dict[str, int]:
    """Name -> number of whole units, by largest remainder."""
    numbers = {n: int(torch.searchsorted(units[n].paid, k, right=True)) - 1 for n, k in counts.items()}
    rest = ranking.budget - sum(int(units[n].paid[number]) for n, number in numbers.items())
    names = [n for n, number in numbers.items() if number + 1 < len(units[n].paid)]
    price = {n: int(units[n].paid[numbers[n] + 1] - units[n].paid[numbers[n]]) for n in names}
    missed = {n: (counts[n] - int(units[n].paid[numbers[n]])) / price[n] for n in names}
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
