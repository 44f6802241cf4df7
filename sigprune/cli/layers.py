"""The tree of layers and their singular values on standard output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from rich.console import Console

from sigprune.base.registry import JsonValue
from sigprune.cli.console import print_rows

Row = dict[str, JsonValue]

_MATRIX = ("min", "mean", "max", "std", "epsilon", "residual")
_OPERATOR = ("min", "mean", "max", "epsilon")


def print_layers(console: Console, facts: Mapping[str, JsonValue]) -> None:
    """A tree of stages and weights with their singular values, then the worst of them."""
    rows = cast("list[Row]", facts["layers"])
    stages: dict[str, list[Row]] = {}
    for row in rows:
        stages.setdefault(str(row["stage"] or row["name"]), []).append(row)
    lines = [line for stage, inside in stages.items() for line in _branch(console, stage, inside)]
    shown = [key for key in lines[0] if any(line[key] not in {None, ""} for line in lines)] if lines else []
    print_rows(console, [{key: line[key] for key in shown} for line in lines], digits=3)
    console.print(f"\n{facts['architecture']} ({facts['library']}), {facts['values']}: {len(rows)} weights")
    console.print("ε: largest |s / gain - 1|; residual: |BBᵀ/gain² - I| of the smaller side")
    padding = "circular padding" if facts["operator"] == "circular" else "their own padding"
    for part, words in (("matrix", "matrices"), ("operator", f"convolutions as maps ({padding})")):
        known = [(float(_part(row, part)["epsilon"] or 0), row["name"]) for row in rows if row[part]]
        if known:
            worst, name = max(known, key=lambda found: found[0])
            console.print(f"largest ε of {words}: {worst:.3g} ({name})")


def _branch(console: Console, stage: str, rows: list[Row]) -> list[Row]:
    """The lines of one stage: its name and its weights below it; one line if that is all."""
    if len(rows) == 1:
        return [_leaf(str(rows[0]["name"]), rows[0])]
    fork, end = ("├─ ", "└─ ") if console.encoding.lower().startswith("utf") else ("|- ", "`- ")
    lines: list[Row] = [dict.fromkeys(_leaf("", rows[0])) | {"weights by stage": stage}]
    for row in rows:
        name = str(row["name"]).removeprefix(f"{stage}.")
        lines.append(_leaf((end if row is rows[-1] else fork) + name, row))
    return lines


def _leaf(name: str, row: Row) -> Row:
    matrix, operator = _part(row, "matrix"), _part(row, "operator")
    dead = {"outputs": row["dead_outputs"], "inputs": row["dead_inputs"]}
    return {
        "weights by stage": name,
        "shape": "x".join(map(str, cast("list[int]", row["shape"]))),
        "blocks": row["blocks"],
        "gain": None if row["gain"] == 1 else row["gain"],
        **{_sign(key): matrix[key] for key in _MATRIX},
        **{f"map {_sign(key)}": operator[key] for key in _OPERATOR},
        "dead": ", ".join(f"{count} {side}" for side, count in dead.items() if count),
        "note": row["note"],
    }


def _sign(key: str) -> str:
    return "ε" if key == "epsilon" else key


def _part(row: Row, part: str) -> dict[str, float | None]:
    """The numbers of a part; None where it was not measured or is not known; rounding errors are 0."""
    found = cast("dict[str, float]", row[part] or {})
    known = {key: found.get(key, math.nan) for key in _MATRIX}
    if known["min"] < 1e-12 * known["max"]:
        known["min"] = 0.0
    return {key: None if math.isnan(value) else value for key, value in known.items()}
