"""Tables on standard output: colours on a terminal, stable plain text elsewhere."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from sigprune.base.family import Plain
from sigprune.effects.report import Report, number
from sigprune.effects.schema import FindingFacts, Histogram, IsometryFacts, Moment

_STATISTICS = ("mean", "std", "min", "median", "max", "condition")
_WIDTH = 32


def stdout() -> Console:
    """A console that never interprets what it prints, and never wraps in a pipe."""
    width = None if sys.stdout.isatty() else 10_000
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True, width=width)


def print_json(data: object) -> None:
    """One JSON document; infinities and NaN as text, as in reports."""
    sys.stdout.write(json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def print_rows(console: Console, rows: Sequence[Mapping[str, Plain]]) -> None:
    """A table with a column for each key; numbers to the right."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for key in keys:
        numeric = all(_is_number(row.get(key)) for row in rows)
        table.add_column(key, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(key)) for key in keys))
    if console.is_terminal:
        console.print(table, soft_wrap=False)
        return
    with console.capture() as grabbed:
        console.print(table, soft_wrap=False)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in grabbed.get().splitlines()))


def print_signal(console: Console, moments: Sequence[Moment]) -> None:
    """Singular values at every moment, with histograms on one logarithmic axis."""
    edges = [edge for m in moments for edge in _occupied(m["histogram"])]
    low, high = min(edges, default=1.0), max(edges, default=1.0)
    span = f"{low:.2g} to {high:.2g}, log scale"
    blocks = " ▁▂▃▄▅▆▇█" if console.encoding.lower().startswith("utf") else " .:-=+*#%"
    print_rows(
        console,
        [
            {
                "singular values": m["moment"],
                **{key: number(m["summary"][key]) for key in _STATISTICS},
                span: _bars(m["histogram"], low, high, blocks),
            }
            for m in moments
        ],
    )


def print_report(console: Console, report: Report, folder: Path) -> None:
    """What a run has to say for itself, in a dozen lines."""
    facts = report.facts
    print_signal(console, facts["signal"])
    mask = facts["mask"]
    console.print(f"\nsparsity {mask['sparsity']:.4f}: {mask['kept']:,} of {mask['total']:,} entries kept")
    if facts["model"]["gates_opened"]:
        console.print(f"gates opened at initialisation: {len(facts['model']['gates_opened'])}")
    if facts["isometry"] is not None:
        console.print(_isometry(facts["isometry"]))
    for finding in report.failed:
        console.print(_warning(finding), style="yellow")
    console.print(_accuracy(report))
    console.print(f"written to {folder}")


def print_anatomy(console: Console, facts: Mapping[str, Plain]) -> None:
    """The weights, then what is skipped by reason, then the gates."""
    weights = _rows(facts["weights"])
    hidden = {key for key in ("tied", "standardised") if not any(row[key] for row in weights)}
    shown = [{key: value for key, value in row.items() if key not in hidden} for row in weights]
    print_rows(
        console, [{**row, "shape": _shape(row["shape"]), "share": _percent(row["share"])} for row in shown]
    )
    console.print(
        f"\n{facts['architecture']} ({facts['library']}): {_cell(facts['parameters'])} parameters, "
        f"{_cell(facts['prunable'])} prunable"
    )
    skipped = facts["skipped"] if isinstance(facts["skipped"], dict) else {}
    for reason, names in skipped.items():
        found = [str(name) for name in names] if isinstance(names, list) else []
        console.print(f"skipped, {reason}: {len(found)} ({', '.join(found[:3])}{', ...' * (len(found) > 3)})")
    gates = _rows(facts["gates"])
    closed = [gate["name"] for gate in gates if gate["closed"]]
    console.print(
        f"gates: {len(gates)}, closed: {len(closed)}" + (f" (first: {closed[0]})" if closed else "")
    )


def print_checkpoint(console: Console, facts: Mapping[str, Plain]) -> None:
    """Sparsity of every layer, then the files."""
    layers = _rows(facts["layers"])
    print_rows(console, [{**row, "shape": _shape(row["shape"])} for row in layers])
    console.print(
        f"\n{facts['architecture']} ({facts['library']}), codec {facts['codec']}: "
        f"{_cell(facts['kept'])} of {_cell(facts['total'])} entries kept, sparsity {_cell(facts['sparsity'])}"
    )
    files = facts["files"] if isinstance(facts["files"], dict) else {}
    print_rows(console, [{"file": name, "bytes": size} for name, size in files.items()])


def _isometry(facts: IsometryFacts) -> str:
    before, after = ([number(v) for v in facts[side].values()] for side in ("before", "after"))
    mean = f"{sum(before) / len(before):.3g} to {sum(after) / len(after):.3g}"
    return f"isometry ({facts['method']}): mean residual |BBᵀ - I| from {mean}"


def _warning(finding: FindingFacts) -> str:
    bounds = f"expected {number(finding['low']):g} to {number(finding['high']):g}"
    text = f"warning: {finding['name']} {finding['where']} is {number(finding['value']):.4g}, {bounds}"
    return f"{text}; {finding['remedy']}" if finding["remedy"] else text


def _accuracy(report: Report) -> str:
    if report.test_accuracy is None:
        return "test accuracy: the data have no test split"
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


def _bars(histogram: Histogram, low: float, high: float, blocks: str) -> str:
    """The counts as one line of blocks between ``low`` and ``high``; any count at all is visible."""
    columns = [0] * _WIDTH
    edges, span = histogram["edges"], math.log(high / low) or 1.0
    for count, left, right in zip(histogram["counts"], edges, edges[1:], strict=False):
        place = math.log(math.sqrt(left * right) / low) / span
        columns[min(max(int(place * _WIDTH), 0), _WIDTH - 1)] += count
    most = max(columns) or 1
    return "".join(blocks[math.ceil(count / most * (len(blocks) - 1))] for count in columns)


def _rows(value: Plain) -> list[dict[str, Plain]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _shape(value: Plain) -> str:
    return "x".join(str(n) for n in value) if isinstance(value, list) else str(value)


def _percent(value: Plain) -> str:
    return f"{value:.1%}" if isinstance(value, float) else str(value)


def _is_number(value: Plain) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Plain) -> str:
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return {key: _finite(item) for key, item in value.items()} if isinstance(value, dict) else value
