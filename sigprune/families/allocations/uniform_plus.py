"""One density, but for the first convolution (dense) and the classifier (at least a fifth)."""

from __future__ import annotations

import math
from fractions import Fraction

from sigprune.base.registry import Share
from sigprune.families.allocations._shared import affordable, share
from sigprune.values.ranking import Ranking

PAPER = (
    "Gale et al. 2019, arXiv 1902.09574 (uniform, first convolution dense, last layer at least 20 % dense)"
)


def allocate(ranking: Ranking, *, head: Share = 0.2) -> dict[str, int]:
    """Counts in proportion to the sizes, after the first convolution and the classifier have their least.

    The first convolution is that of the network, in order of definition (none in a network without
    convolutions, or if it is not pruned at all); classifiers are the weights of role ``head``.

    Args:
        ranking: sizes and sites; scores are not looked at.
        head: least density of classifiers; it counts where the others are sparser than that.

    Raises:
        BadInput: the sparsity does not leave that much.
    """
    sizes = ranking.sizes()
    least = {
        name: math.ceil((site.stem or (site.role == "head") * Fraction(str(head))) * sizes[name])
        for name, site in ranking.sites.items()
    }
    least = {name: min(count, ranking.capacity[name]) for name, count in least.items()}
    affordable(ranking, least, f"a dense first convolution with {head:g} of the classifier")
    return share(ranking, {name: float(size) for name, size in sizes.items()}, least)
