"""Figures of the signal: singular values and gains, moment by moment (imports no torch)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sigprune.effects.figures_style import FAINT, INK, short, styles
from sigprune.effects.report import gains, number
from sigprune.effects.schema import Moment

FEW_STAGES = 24
"""Up to here every stage has its name below the axis."""
_FEW_LINES = 4
"""Up to here the legend stands inside the panel."""


def singular_values(moments: Sequence[Moment]) -> Figure:
    """Histograms of the Jacobian's singular values, one row per moment, on one logarithmic axis."""
    figure = Figure(figsize=(8, 1.1 + 1.15 * len(moments)), layout="constrained")
    rows = figure.subplots(len(moments), 1, sharex=True, squeeze=False)[:, 0]
    chosen = styles([moment["moment"] for moment in moments])
    for axes, moment, (colour, _) in zip(rows, moments, chosen, strict=True):
        _histogram(axes, moment, colour)
    rows[0].set_xlim(*_limits(moments))
    rows[-1].spines["bottom"].set_visible(True)
    rows[-1].tick_params(bottom=True)
    below = any("≤" in text.get_text() for axes in rows for text in axes.texts)
    note = "each row has its own height" + ("; ≤: and below" if below else "")
    rows[-1].set_xlabel(f"singular value of the input-output Jacobian ({note})")
    figure.suptitle("How strongly signals pass through the network", x=0.01, ha="left", fontsize=13)
    return figure


def _histogram(axes: Axes, moment: Moment, colour: str) -> None:
    edges, counts = moment["histogram"]["edges"], moment["histogram"]["counts"]
    mean, smallest, largest = (number(moment["summary"][key]) for key in ("mean", "min", "max"))
    axes.set_xscale("log")
    axes.set_yticks([])
    axes.set_ylim(0, 1.12 * max(1, *counts))
    axes.spines["left"].set_visible(False)
    axes.tick_params(bottom=False, which="both")
    axes.axvline(1.0, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    filled = _filled(moment)
    if filled:
        counts, edges = counts[filled.start : filled.stop], edges[filled.start : filled.stop + 1]
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.35, zorder=2)
        axes.stairs(counts, edges, color=colour, linewidth=1.2, zorder=3)
    if filled and smallest < edges[0]:
        axes.text(edges[0], 0.5 * counts[0], "≤ ", ha="right", va="center", color=colour, zorder=3)
    if math.isfinite(mean) and mean > 0:
        axes.plot([mean], [0], marker="^", markersize=9, color=colour, clip_on=False, zorder=4)
    numbers = f"▲ mean {short(mean)}\nfrom {short(smallest)} to {short(largest)}"
    axes.text(
        -0.01, 0.72, moment["moment"], transform=axes.transAxes, ha="right", color=colour, weight="bold"
    )
    axes.text(
        -0.01, 0.6, numbers, transform=axes.transAxes, ha="right", va="top", fontsize=8.5, linespacing=1.4
    )


def _filled(moment: Moment) -> range:
    """The bins from the first to the last that holds a value; none where every value is zero."""
    places = [i for i, count in enumerate(moment["histogram"]["counts"]) if count]
    positive = places and number(moment["summary"]["max"]) > 0
    return range(places[0], places[-1] + 1) if positive else range(0)


def _limits(moments: Sequence[Moment]) -> tuple[float, float]:
    """Room for every bin that is not empty, and for the line at 1."""
    ends = [1.0]
    for moment in moments:
        edges, filled = moment["histogram"]["edges"], _filled(moment)
        ends += [edges[filled.start], edges[filled.stop]] if filled else []
    return min(ends) / 2, max(ends) * 2


def gain_profile(moments: Sequence[Moment]) -> Figure:
    """Forward and backward gains, stage by stage, one line per moment; bands are two standard errors."""
    told = [moment for moment in moments if moment.get("profile")]
    stages = [row.stage for row in gains(told[-1]).stages]
    width = max(8.0, min(14.0, 0.34 * len(stages) + 3)) + (0 if len(told) <= _FEW_LINES else 3)
    figure = Figure(figsize=(width, 6), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for moment, style in zip(told, styles([m["moment"] for m in told]), strict=True):
        rows = gains(moment).stages
        places = [stages.index(row.stage) for row in rows if row.stage in stages]
        kept = [row for row in rows if row.stage in stages]
        forward = [(row.forward, row.forward_error) for row in kept]
        backward = [(row.backward, row.backward_error) for row in kept]
        for axes, pairs in zip(panels, (forward, backward), strict=True):
            _band(axes, places, pairs, style, moment["moment"])
    for axes, title in zip(
        panels, ("from the input to the stage", "from the stage to the output"), strict=True
    ):
        axes.axhline(1.0, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.set_yscale("log")
        axes.set_title(title)
        axes.set_ylabel("gain (rms singular value)")
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
    beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if len(told) > _FEW_LINES else {}
    panels[0].legend(frameon=False, fontsize=9, **beside)
    step = math.ceil(len(stages) / FEW_STAGES)
    panels[1].set_xticks(range(0, len(stages), step), stages[::step], rotation=60, ha="right", fontsize=8.5)
    panels[1].set_xlabel("stages in the order in which they run (dashed: an isometry)")
    figure.suptitle("Where the signal grows and where it dies", x=0.01, ha="left", fontsize=13)
    return figure


def _band(
    axes: Axes,
    places: Sequence[int],
    pairs: Sequence[tuple[float, float]],
    style: tuple[str, str],
    label: str,
) -> None:
    """Positive, finite gains; a gap where the signal has vanished, with a cross at the foot of it."""
    colour, line = style
    values = [value if math.isfinite(value) and value > 0 else math.nan for value, _ in pairs]
    axes.plot(
        places,
        values,
        color=colour,
        linestyle=line,
        linewidth=1.8,
        marker="o",
        markersize=3.5,
        label=label,
        zorder=3,
    )
    errors = [error if math.isfinite(error) else 0.0 for _, error in pairs]
    low = [max(v - 2 * e, 0.05 * v) for v, e in zip(values, errors, strict=True)]
    high = [v + 2 * e for v, e in zip(values, errors, strict=True)]
    axes.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0, zorder=2)
    dead = [place for place, (value, _) in zip(places, pairs, strict=True) if value == 0]
    foot = min([v for v in values if not math.isnan(v)], default=1.0)
    axes.scatter(dead, [foot] * len(dead), 36, color=colour, marker="x", zorder=4)
