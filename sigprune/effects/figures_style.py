"""What all figures have in common: colours, lines and letters (imports no torch)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import MappingProxyType

INK, QUIET, FAINT = "#222222", "#6b6b6b", "#d9d9d9"
# Okabe and Ito's palette: told apart with every kind of colour blindness.
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
COLOURS = MappingProxyType({
    "as opened": QUIET,
    "after init": BLUE,
    "after pruning": VERMILLION,
    "after isometry": GREEN,
})
_OTHERS = (BLUE, VERMILLION, GREEN, "#CC79A7", "#E69F00", "#56B4E9")
_LINES = ("-", ":", "-.")  # dashes mark an isometry
STYLE = MappingProxyType({
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
})


def styles(names: Sequence[str]) -> list[tuple[str, str]]:
    """A colour and a line style for each moment, a pair that no other has (up to 18 moments).

    Moments of a run have colours of their own; what else is compared shares none of those that are in use.
    """
    free = [colour for colour in _OTHERS if colour not in {COLOURS.get(name) for name in names}]
    others = itertools.cycle((colour, line) for line in _LINES for colour in free)
    return [(COLOURS[name], "-") if name in COLOURS else next(others) for name in names]


def short(value: float) -> str:
    """Three significant digits, two where an exponent is needed."""
    return f"{value:.2g}" if value == 0 or not 0.01 <= abs(value) < 1000 else f"{value:.3g}"
