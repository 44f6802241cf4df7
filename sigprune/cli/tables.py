"""Tables on standard output: colours on a terminal, stable plain text elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from sigprune.base.registry import JsonValue
from sigprune.cli.console import cell, print_rows
from sigprune.report.card_sections import dense_heads
from sigprune.report.record import Report, gains, number
from sigprune.report.schema import FindingFacts, Histogram, IsometryFacts, Moment
from sigprune.values.finding import Bound, Finding

if TYPE_CHECKING:
    from sigprune.checkpoint.writers import Written

_STATISTICS = ("mean", "std", "min", "median", "max", "condition")
_ESTIMATES = ("mean", "mean_error", "median", "max", "mean_square", "mean_square_error", "gap", "gap_error")
_CHANCE = (
    "warning: no better than saying the largest class; train longer (--epochs) or differently "
    "(for example --set train.optimizer=adamw --set train.lr=0.001)"
)
_WIDTH = 32
"""Columns of a histogram where there is room."""


def print_signal(console: Console, moments: Sequence[Moment]) -> None:
    """Singular values at every moment; histograms on one logarithmic axis, where there is room for them.

    Estimates are shown with what they know, standard errors, and how they were made.
    """
    methods = dict.fromkeys(m.get("method", "") for m in moments if m.get("kind", "exact") != "exact")
    known = [k for k in _ESTIMATES if any(not math.isnan(number(m["summary"][k])) for m in moments)]
    keys = known if methods else list(_STATISTICS)
    edges = [edge for m in moments for edge in _occupied(m["histogram"])]
    low, high = min(edges, default=1.0), max(edges, default=1.0)
    span = f"{low:.2g} to {high:.2g}, log"
    blocks = " ▁▂▃▄▅▆▇█" if console.encoding.lower().startswith("utf") else " .:-=+*#%"
    rows: list[dict[str, JsonValue]] = [
        {"singular values": m["moment"], **{key: number(m["summary"][key]) for key in keys}} for m in moments
    ]
    used = sum(3 + max(len(key), *(len(cell(row[key], 3)) for row in rows)) for key in rows[0])
    width = min(_WIDTH, console.width - used) if console.is_terminal else _WIDTH
    if width >= len(span):
        bars = [_bars(m["histogram"], low, high, blocks, width) for m in moments]
        rows = [row | {span: bar} for row, bar in zip(rows, bars, strict=True)]
    print_rows(console, rows, digits=3)
    for method in methods:
        console.print(f"estimated by {method}")


def print_weakest(console: Console, moments: Sequence[Moment], bound: Bound) -> None:
    """One line for each moment whose mean singular value is out of bounds: at which stage it gets there."""
    for m in moments:
        mean = number(m["summary"]["mean"])
        change = gains(m).largest_change(falling=None if math.isnan(mean) else mean < bound.low)
        if not bound.low <= mean <= bound.high and change is not None:
            finding = Finding("mean_jsv", m["moment"], mean, bound.low, bound.high, remedy=str(change))
            console.print(str(finding), style="yellow")


def print_report(console: Console, report: Report, folder: Path) -> None:
    """What a run has to say for itself, in a dozen lines."""
    facts = report.facts
    print_signal(console, facts["signal"])
    mask = facts["mask"]
    console.print(f"\nsparsity {mask['sparsity']:.4f}: {mask['kept']:,} of {mask['total']:,} entries kept")
    if heads := mask.get("dense_heads"):
        console.print(dense_heads(report, heads).replace("`", ""))
    if facts["model"]["gates_opened"]:
        console.print(f"gates opened at initialisation: {len(facts['model']['gates_opened'])}")
    if facts["isometry"] is not None:
        console.print(_isometry(facts["isometry"]))
    for row in report.afresh:
        console.print(
            f"{row['part']}: {row['tensors']} tensors {row['does']}; {row['reason']}", style="yellow"
        )
    for finding in report.failed:
        console.print(_warning(finding), style="yellow")
    console.print(_accuracy(report))
    if report.at_chance:
        console.print(_CHANCE, style="yellow")
    console.print(f"written to {folder}")


def print_anatomy(console: Console, facts: Mapping[str, JsonValue]) -> None:
    """A tree of stages and weights, then what is skipped by reason, then the gates."""
    weights = _rows(facts["weights"])
    stages: dict[str, list[dict[str, JsonValue]]] = {}
    for row in weights:
        stages.setdefault(str(row["stage"]), []).append(row)
    lines = [line for stage, inside in stages.items() for line in _branch(console, stage, inside)]
    print_rows(console, [{k: v for k, v in line.items() if any(o[k] for o in lines)} for line in lines])
    console.print(
        f"\n{facts['architecture']} ({facts['library']}): {cell(facts['parameters'])} parameters, "
        f"{cell(facts['prunable'])} prunable"
    )
    skipped = facts["skipped"] if isinstance(facts["skipped"], dict) else {}
    for reason, names in skipped.items():
        found = [str(name) for name in names] if isinstance(names, list) else []
        console.print(f"skipped, {reason}: {len(found)} ({', '.join(found[:3])}{', ...' * (len(found) > 3)})")
    if facts["sketched"]:
        console.print("too large to be made for a look: gates are known by structure only")
    gates = _rows(facts["gates"])
    closed = [gate["name"] for gate in gates if gate["closed"]]
    console.print(
        f"gates: {len(gates)}, closed: {len(closed)}" + (f" (first: {closed[0]})" if closed else "")
    )


def print_checkpoint(console: Console, facts: Mapping[str, JsonValue]) -> None:
    """Sparsity of every layer, then the files."""
    layers = _rows(facts["layers"])
    print_rows(console, [{**row, "shape": _shape(row["shape"])} for row in layers])
    kept, total = (int(_number(facts[key])) for key in ("kept", "total"))
    what, library, codec = (cell(facts[key] or "none") for key in ("architecture", "library", "codec"))
    console.print(
        f"\n{what} ({library}), codec {codec}: "
        f"{kept_words(kept, total, len(layers), _number(facts['sparsity']))}"
    )
    files = facts["files"] if isinstance(facts["files"], dict) else {}
    print_rows(console, [{"file": name, "bytes": size} for name, size in files.items()])
    provenance = facts["provenance"] if isinstance(facts["provenance"], dict) else {}
    if provenance:
        console.print()
        print_rows(
            console, [{"provenance": key, "value": _in_words(value)} for key, value in provenance.items()]
        )
    verified = facts.get("verified")
    if isinstance(verified, dict):
        counts = " and ".join(f"{count} {kind}" for kind, count in verified.items())
        console.print(f"\nverified, every bit: {counts} tensors")


def kept_words(kept: int, total: int, tensors: int, sparsity: float) -> str:
    """What a mask keeps, as every command says it."""
    return f"{kept:,} of {total:,} entries kept in {tensors:,} tensors, sparsity {cell(sparsity)}"


def _in_words(value: JsonValue) -> str:
    """A value of a manifest on one line; what has several levels is for ``--json``."""
    if isinstance(value, dict):
        if any(isinstance(one, dict | list) for one in value.values()):
            return "(see --json)"
        name = str(value.get("name", ""))
        options = ", ".join(f"{key} {one}" for key, one in value.items() if key != "name")
        return f"{name} ({options})" if name and options else name or options
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _branch(
    console: Console, stage: str, weights: Sequence[Mapping[str, JsonValue]]
) -> list[dict[str, JsonValue]]:
    """The lines of one stage: its sums and its weights, named below it; one line if that is all."""
    if len(weights) == 1:
        return [_leaf(str(weights[0]["name"]), weights[0])]
    fork, end = ("├─ ", "└─ ") if console.encoding.lower().startswith("utf") else ("|- ", "`- ")
    blocks, parameters, share = (
        sum(_number(row[key]) for row in weights) for key in ("blocks", "parameters", "share")
    )
    lines: list[dict[str, JsonValue]] = [dict.fromkeys(_leaf("", weights[0]), "")]
    lines[0] |= {"weights by stage": stage, "share": _percent(share)}
    lines[0] |= {"blocks": int(blocks), "parameters": int(parameters)}
    for row in weights:
        name = str(row["name"]).removeprefix(f"{stage}.")
        lines.append(_leaf((end if row is weights[-1] else fork) + name, row))
    return lines


def _leaf(name: str, row: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    tied = row["tied"] if isinstance(row["tied"], list) else []
    notes = {
        "not prunable": not row["prunable"],
        "standardised: zeros do not stay zeros": row["standardised"],
        f"also {', '.join(map(str, tied))}": tied,
    }
    layout = row["layout"] if isinstance(row["layout"], dict) else {}
    return {
        "weights by stage": name,
        "role": row["role"],
        "shape": _shape(row["shape"]),
        "layout": layout.get("words"),
        "blocks": row["blocks"],
        "parameters": row["parameters"],
        "share": _percent(_number(row["share"])),
        "notes": "; ".join(note for note, holds in notes.items() if holds),
    }


def _isometry(facts: IsometryFacts) -> str:
    sides = (facts["before"], facts["after"], facts.get("floor") or {})
    before, after, floor = (sum(map(number, s.values())) / max(len(s), 1) for s in sides)
    bound = f" (floor {floor:.3g})" if facts.get("floor") else ""
    return f"isometry ({facts['method']}): mean residual |BBᵀ - I| from {before:.3g} to {after:.3g}{bound}"


def _warning(facts: FindingFacts) -> str:
    low, high = number(facts["low"]), number(facts["high"])
    return str(
        Finding(facts["name"], facts["where"], number(facts["value"]), low, high, remedy=facts["remedy"])
    )


def _accuracy(report: Report) -> str:
    if report.test_accuracy is None:
        return f"test accuracy: {report.evaluation_skipped or 'the data have no test split'}"
    scores = {
        "sparse": report.test_accuracy,
        "dense": report.dense_test_accuracy,
        "majority class": report.majority_accuracy,
    }
    parts = ", ".join(f"{name} {score:.2%}" for name, score in scores.items() if score is not None)
    return f"test accuracy: {parts} ({report.facts['evaluation']['examples']} examples)"


def _occupied(histogram: Histogram) -> list[float]:
    """The outer edges of the bins that are not empty."""
    edges, filled = histogram["edges"], [i for i, count in enumerate(histogram["counts"]) if count]
    return [edges[filled[0]], edges[filled[-1] + 1]] if filled else []


def _bars(histogram: Histogram, low: float, high: float, blocks: str, width: int) -> str:
    """The counts as one line of blocks between ``low`` and ``high``; any count at all is visible."""
    columns = [0] * width
    edges, span = histogram["edges"], math.log(high / low) or 1.0
    for count, left, right in zip(histogram["counts"], edges, edges[1:], strict=False):
        place = math.log(math.sqrt(left * right) / low) / span
        columns[min(max(int(place * width), 0), width - 1)] += count
    most = max(columns) or 1
    return "".join(blocks[math.ceil(count / most * (len(blocks) - 1))] for count in columns)


def _rows(value: JsonValue) -> list[dict[str, JsonValue]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _shape(value: JsonValue) -> str:
    return "x".join(str(n) for n in value) if isinstance(value, list) else str(value)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 else "<0.1%"


def _number(value: JsonValue) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def print_written(console: Console, written: Written) -> None:
    """The files, what stayed behind, and last what the mask keeps."""
    print_rows(console, [{"file": name, "bytes": size} for name, size in written.files.items()])
    print_left(console, written.left)
    for note in written.notes:
        console.print(note)
    if written.layers:
        kept, total, tensors = written.kept, written.total, len(written.layers)
        console.print(f"\n{kept_words(kept, total, tensors, written.sparsity)}")


def print_left(console: Console, left: Sequence[str], most: int = 8) -> None:
    """One line that names what of the source was not copied, if anything was not."""
    if left:
        others = f" and {len(left) - most} more" if len(left) > most else ""
        console.print(f"not copied: {', '.join(left[:most])}{others}")


def nearly_empty(written: Written) -> list[str]:
    """A warning for each tensor that pruning has all but emptied, one that says how to leave it dense."""
    return [
        f"warning: {name} keeps {kept:,} of {total:,} entries; --set 'prune.exclude=[{name}]' leaves it dense"
        for name, (kept, total) in written.layers.items()
        if name in written.nearly_empty()
    ]
