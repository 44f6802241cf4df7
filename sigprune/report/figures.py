"""Figures: what a report says, drawn (the only module that uses matplotlib; imports no torch)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from sigprune.report.record import Report, gains, number
from sigprune.report.schema import Layer, Moment, Number

T = TypeVar("T")
Rows = Sequence[Mapping[str, Number | None]]

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

# Roles of layers; vermillion is left for what went wrong.
_ROLES = (BLUE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", QUIET)
FEW_LAYERS = 36
"""Up to here every layer has a bar with its name."""
_MAX_NAMED = 14
"""Of more layers so many are named, those that keep least."""
FEW_STAGES = 24
"""Up to here every stage has its name below the axis."""
_FEW_LINES = 4
"""Up to here the legend stands inside the panel."""


def draw(report: Report, folder: str | Path) -> tuple[str, ...]:
    """Write the figures of a report as PNG files; equal reports give equal bytes.

    The user's matplotlib settings, backend and open figures are neither used nor changed.

    Args:
        report: says what to draw; see :attr:`Report.figures`.
        folder: the run's folder; the figures go into ``figures`` in it.

    Returns:
        The names of the files, relative to the folder.

    Example:
        >>> draw(Report.read("runs/quickstart"), "runs/quickstart")  # doctest: +SKIP
        ('figures/singular_values.png', 'figures/sparsity.png', 'figures/training.png')
    """
    makers: dict[str, Callable[[Report], Figure]] = {
        "singular_values": lambda found: singular_values(found.facts["signal"]),
        "gains": lambda found: gain_profile(found.facts["signal"]),
        "sparsity": layer_sparsity,
        "training": training_curve,
    }
    for name in report.figures:
        path = Path(folder) / name
        _save(makers[path.stem], report, path)
    return report.figures


def draw_signal(moments: Sequence[Moment], folder: str | Path) -> tuple[str, ...]:
    """The same of moments alone: singular values, and gains where there are some.

    Returns:
        The names of the files in the folder.
    """
    makers = {"singular_values": singular_values}
    if any(moment.get("profile") for moment in moments):
        makers["gains"] = gain_profile
    for name, make in makers.items():
        _save(make, moments, Path(folder) / f"{name}.png")
    return tuple(f"{name}.png" for name in makers)


def _save(make: Callable[[T], Figure], facts: T, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.style.context(["default", dict(STYLE)]):
        canvas = FigureCanvasAgg(figure := make(facts))
        figure.set_dpi(160)
        # draws once; savefig draws twice, for the layout
        canvas.print_png(path, metadata={"Software": None})  # type: ignore[no-untyped-call]


def layer_sparsity(report: Report) -> Figure:
    """What is left of every layer: labelled bars for few layers, one dot per layer for many."""
    layers = report.facts["mask"]["layers"]
    few = len(layers) <= FEW_LAYERS
    figure = Figure(figsize=(8, 1.3 + 0.24 * len(layers)) if few else (12, 4.6), layout="constrained")
    axes = figure.subplots()
    (_bars if few else _dots)(axes, layers, 1 - report.sparsity)
    total = _count(report.facts["mask"]["total"])
    title = f"{100 * (1 - report.sparsity):.3g} % of {total} entries kept, layer by layer"
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    if not few:
        roles = {layer["role"] for layer in layers}
        figure.legend(loc="upper right", ncols=len(roles), frameon=False, fontsize=9, markerscale=1.2)
    return figure


def _bars(axes: Axes, layers: Sequence[Layer], overall: float) -> None:
    shares = [_share(layer) for layer in layers]
    places = range(len(layers))
    axes.barh(places, shares, color=BLUE, height=0.72, zorder=2)
    for place, layer, share in zip(places, layers, shares, strict=True):
        dead = "nothing left" if layer["total"] and not layer["kept"] else _percent(share)
        colour = VERMILLION if dead == "nothing left" else INK
        text = f" {dead} of {_count(layer['total'])}"
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 0}
        axes.text(share, place, text, va="center", fontsize=8.5, color=colour, zorder=3, bbox=paper)
    axes.axvline(overall, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.set_yticks(places, [layer["name"] for layer in layers], fontsize=8.5)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.tick_params(left=False)
    axes.set_xlim(0, right := min(1.28 * max([*shares, overall]), 1))  # the text may stand beyond it
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= right])
    axes.xaxis.set_major_formatter(_percents())
    axes.set_xlabel("share of its entries that a layer keeps (dashed: all layers together)")


def _dots(axes: Axes, layers: Sequence[Layer], overall: float) -> None:
    floor = min([_share(layer) for layer in layers if layer["kept"]] + [overall or 1.0]) / 2
    largest = max(layer["total"] for layer in layers)
    roles = dict.fromkeys(layer["role"] for layer in layers)
    axes.set_yscale("log")
    axes.axhline(overall, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for role, colour in zip(roles, itertools.cycle(_ROLES)):
        own = [(i, x) for i, x in enumerate(layers, 1) if x["role"] == role and x["kept"]]
        sizes = [5 + 60 * math.sqrt(x["total"] / largest) for _, x in own]
        places, shares = [i for i, _ in own], [_share(x) for _, x in own]
        dots = axes.scatter(
            places, shares, sizes, color=colour, alpha=0.8, linewidths=0, zorder=2, label=role
        )
        dots.set_clip_on(False)  # a dot at 100 % stands on the edge
    dead = [i for i, layer in enumerate(layers, 1) if layer["total"] and not layer["kept"]]
    if dead:
        axes.scatter(dead, [floor] * len(dead), 36, color=VERMILLION, marker="x", zorder=3)
        axes.text(dead[-1], floor, "   nothing left", color=VERMILLION, va="center", fontsize=8.5)
    axes.set_ylim(floor / 1.5, 1)
    axes.set_xlim(0.3, len(layers) + 0.7)
    axes.yaxis.set_major_formatter(_percents())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_ylabel("share of its entries kept")
    axes.set_xlabel("layer, in order of definition (larger dot: larger layer; dashed: all layers together)")
    _stages(axes, layers)
    _name_least(axes, layers, floor)


def _name_least(axes: Axes, layers: Sequence[Layer], floor: float) -> None:
    """Number the layers that keep the smallest shares, and name them beside the plot."""
    order = sorted((i for i, layer in enumerate(layers) if layer["total"]), key=lambda i: _share(layers[i]))
    lines = ["layers that keep least"]
    for place, i in enumerate(order[:_MAX_NAMED], 1):
        layer = layers[i]
        at = i + 1, max(_share(layer), floor)
        axes.annotate(
            str(place), at, (0, 5), textcoords="offset points", ha="center", fontsize=7.5, color=INK
        )
        left = _percent(_share(layer)) if layer["kept"] else "nothing"
        lines.append(f"{place}  {_shortened(layer['name'])}: {left} of {_count(layer['total'])}")
    dead = sum(1 for layer in layers if layer["total"] and not layer["kept"])
    if dead > _MAX_NAMED:
        lines.append(f"and {dead - _MAX_NAMED} more that keep nothing")
    axes.text(1.02, 1, "\n".join(lines), transform=axes.transAxes, va="top", fontsize=8, linespacing=1.5)


def _shortened(name: str, longest: int = 44) -> str:
    """The name, without its middle if it is long: both ends tell layers apart."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def _stages(axes: Axes, layers: Sequence[Layer]) -> None:
    """Name the parts of the network above the plot, where there is room for the name."""
    starts = [i for i, layer in enumerate(layers) if i == 0 or layer["stage"] != layers[i - 1]["stage"]]
    for start, end in zip(starts, [*starts[1:], len(layers)], strict=True):
        if start:
            axes.axvline(start + 0.5, color=FAINT, linewidth=0.8, zorder=0)
        name = layers[start]["stage"]
        if name and 105 * (end - start) / len(layers) > len(name):
            above = axes.get_xaxis_transform()
            axes.text(
                (start + end + 1) / 2, 1.03, name, transform=above, ha="center", fontsize=8.5, color=QUIET
            )


def training_curve(report: Report) -> Figure:
    """Test accuracy and loss by epoch, sparse and dense."""
    dense = report.facts["dense"]
    runs: list[tuple[str, str, Rows]] = [("sparse", BLUE, report.facts["training"]["epochs"])]
    runs = [("dense", QUIET, dense["epochs"]), *runs] if dense else runs
    epochs = len(runs[-1][2])
    tested = any(row.get("test_accuracy") is not None for row in runs[-1][2])
    figure = Figure(figsize=(8 if tested else 5, 3.3), layout="constrained")
    panels = figure.subplots(1, 2 if tested else 1, squeeze=False)[0]
    for name, colour, rows in runs:
        if tested:
            _line(panels[0], rows, "test_accuracy", colour, name)
            _line(panels[-1], rows, "test_loss", colour, f"{name}, test")
        _line(panels[-1], rows, "train_loss", colour, f"{name}, train")
    if tested:
        panels[0].yaxis.set_major_formatter(_percents())
        panels[0].set_title("test accuracy")
        panels[0].set_ylim(top=min(panels[0].get_ylim()[1], 1))
    panels[-1].set_title("loss")
    panels[-1].set_yscale("log")
    panels[-1].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[-1].yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
    panels[-1].yaxis.set_minor_formatter(NullFormatter())
    for axes in panels:
        axes.set_xlabel("epoch")
        axes.set_xlim(1 if epochs > 1 else 0.5, max(epochs, 1.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.legend(frameon=False, fontsize=9)
    return figure


def _line(axes: Axes, rows: Rows, key: str, colour: str, label: str) -> None:
    """Dense lines are wider, so that they show where the sparse one lies on them."""
    points = [
        (number(row["epoch"] or 0), number(value)) for row in rows if (value := row.get(key)) is not None
    ]
    axes.plot(
        [epoch for epoch, _ in points],
        [value for _, value in points],
        linestyle=":" if key == "train_loss" else "-",
        color=colour,
        linewidth=1.8 if colour == BLUE else 2.8,
        marker="" if len(points) > 1 else "o" if key.startswith("test") else "s",
        label=label,
        clip_on=key != "test_accuracy",  # a line at 100 % lies on the edge
    )


def _percents() -> FuncFormatter:
    return FuncFormatter(lambda share, _: f"{float(f'{100 * share:.4g}'):.10g} %")


def _share(layer: Layer) -> float:
    return layer["kept"] / layer["total"] if layer["total"] else 0.0


def _percent(share: float) -> str:
    """Two significant digits, without an exponent."""
    if share in {0, 1} or share >= 0.1:
        return f"{100 * share:.0f} %"
    return f"{float(f'{100 * share:.2g}'):.10g} %"


def _count(entries: int) -> str:
    for unit, name in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if entries >= unit:
            return f"{entries / unit:.3g}{name}"
    return str(entries)


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
    profiled = [moment for moment in moments if moment.get("profile")]
    stages = [row.stage for row in gains(profiled[-1]).stages]
    width = max(8.0, min(14.0, 0.34 * len(stages) + 3)) + (0 if len(profiled) <= _FEW_LINES else 3)
    figure = Figure(figsize=(width, 6), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for moment, style in zip(profiled, styles([m["moment"] for m in profiled]), strict=True):
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
    outside = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if len(profiled) > _FEW_LINES else {}
    panels[0].legend(frameon=False, fontsize=9, **outside)
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
