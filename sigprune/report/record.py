"""Reports: what happened in a run, as plain JSON (imports no torch)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import cast

import numpy as np
import numpy.typing as npt

from sigprune.base.canonical_json import read_object
from sigprune.base.errors import BadInput
from sigprune.base.registry import JsonValue
from sigprune.format.names import REPORT
from sigprune.report.schema import FindingFacts, Moment, Number, PartFacts, ReportData
from sigprune.values.gains import Profile, StageGain

SCHEMA = 1
AFRESH = "drawn afresh"
"""What was done to a part that the recipe keeps, and that the pretrained weights do not have."""

BINS = 40
SPAN = 1e-6

_GROUPS: Mapping[str, type | tuple[type, ...]] = MappingProxyType({
    "recipe": dict,
    "digest": str,
    "versions": dict,
    "model": dict,
    "init": list,
    "signal": list,
    "calibration": list,
    "checks": list,
    "isometry": (dict, type(None)),
    "findings": list,
    "mask": dict,
    "training": dict,
    "dense": (dict, type(None)),
    "evaluation": dict,
    "files": dict,
})


@dataclass(frozen=True)
class Report:
    """What happened in a run, as plain JSON that cannot be anything else.

    Attributes:
        data: what is in the JSON; the report has a copy of its own, in which infinities and NaN are strings.

    Raises:
        BadInput: another schema, a missing group, or a value that is not plain.

    Example:
        >>> report = Report.read("runs/quickstart")  # doctest: +SKIP
        >>> report.sparsity, report.test_accuracy  # doctest: +SKIP
        (0.9, 0.9722222222222222)
    """

    data: Mapping[str, object]

    def __post_init__(self) -> None:
        plain = {key: _plain(self.data[key], key) for key in sorted(self.data)}
        if plain.get("schema") != SCHEMA:
            raise BadInput(
                f"report: expected schema {SCHEMA}, got {plain.get('schema')!r}; read it with the sigprune "
                "that wrote it, or run the recipe again"
            )
        for group, kind in _GROUPS.items():
            if not isinstance(plain.get(group), kind):
                raise BadInput(f"report.{group}: expected {_words(kind)}, got {_short(plain.get(group))}")
        object.__setattr__(self, "data", plain)

    def __repr__(self) -> str:
        score = "" if self.test_accuracy is None else f", test accuracy {self.test_accuracy:.4f}"
        return f"Report({self.value('model', 'ref')}, sparsity {self.sparsity:.4f}{score})"

    def __hash__(self) -> int:
        return hash(self.to_json())

    @classmethod
    def read(cls, path: str | Path) -> Report:
        """Read a ``report.json``, or the one in a folder.

        Raises:
            BadInput: the file is missing, not JSON, or no report of this schema.
        """
        path = Path(path) / REPORT if Path(path).is_dir() else Path(path)
        return cls(read_object(path))

    def to_json(self) -> str:
        """Canonical text: sorted keys, indented by two, a newline at the end; equal reports, equal bytes."""
        return json.dumps(self.data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"

    def without_timing(self) -> Report:
        """The report without the one group that differs between equal runs."""
        return Report({key: value for key, value in self.data.items() if key != "timing"})

    @property
    def facts(self) -> ReportData:
        """The data, typed."""
        return cast("ReportData", self.data)

    @property
    def afresh(self) -> list[PartFacts]:
        """Parts that are not the pretrained weights' own, though the recipe keeps those."""
        return [row for row in self.facts["init"] if row["does"] == AFRESH]

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable entries that was removed."""
        return self.facts["mask"]["sparsity"]

    @property
    def test_accuracy(self) -> float | None:
        """Of the sparse network, in [0, 1]; None where there was no test split."""
        return self._score("test_accuracy")

    @property
    def dense_test_accuracy(self) -> float | None:
        """Of the dense network under the same plan; None where it was not trained."""
        return self._score("dense_test_accuracy")

    @property
    def evaluation_skipped(self) -> str:
        """Why no accuracy was measured although there is a test split; empty otherwise."""
        return self.facts.get("evaluation_skipped", "")

    @property
    def majority_accuracy(self) -> float | None:
        """Of always saying the most frequent class of the test split."""
        return self._score("majority_accuracy")

    @property
    def at_chance(self) -> bool:
        """Whether a trained network is not clearly better than saying the most frequent class."""
        score, chance = self.test_accuracy, self.majority_accuracy
        trained = bool(self.facts["training"]["epochs"])
        return trained and score is not None and chance is not None and score <= 1.1 * chance

    @property
    def failed(self) -> list[FindingFacts]:
        """The findings that did not keep their bounds."""
        return [finding for finding in self.facts["findings"] if not finding["ok"]]

    @property
    def dead_layers(self) -> list[str]:
        """Names of the masked tensors of which nothing is left."""
        return [
            layer["name"] for layer in self.facts["mask"]["layers"] if layer["total"] and not layer["kept"]
        ]

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of the figures that this report has the numbers for, as paths inside the run's folder."""
        facts = self.facts
        there = {
            "singular_values": facts["signal"],
            "gains": any(moment.get("profile") for moment in facts["signal"]),
            "sparsity": facts["mask"]["layers"],
            "training": facts["training"]["epochs"],
        }
        return tuple(f"figures/{name}.png" for name, numbers in there.items() if numbers)

    def value(self, *path: str) -> JsonValue:
        """A value of the resolved recipe; None where there is none."""
        found: JsonValue = self.facts["recipe"]
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    def member(self, *path: str) -> str:
        """The name of the member that a step of the recipe chose; empty where there is none."""
        step = self.value(*path)
        name = step.get("name") if isinstance(step, dict) else step
        return name if isinstance(name, str) else ""

    def _score(self, name: str) -> float | None:
        value = self.facts["evaluation"].get(name)
        return None if value is None else number(value)


def number(value: Number) -> float:
    """A number of a report as a float; reads infinity and NaN.

    Example:
        >>> number("inf"), number(0.5)
        (inf, 0.5)
    """
    return float(value)


def gains(moment: Moment) -> Profile:
    """The gain profile of one moment; empty in a report that has none."""
    rows = moment.get("profile", [])
    return Profile(
        tuple(
            StageGain(
                row["stage"],
                number(row["forward"]),
                number(row["forward_error"]),
                number(row["backward"]),
                number(row["backward_error"]),
                number(row["activation"]),
            )
            for row in rows
        )
    )


def histogram(values: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> dict[str, JsonValue]:
    """Counts of non-negative values in 40 bins of equal width on a logarithmic axis.

    The edges span the positive values, but at most six decades below the largest, in tenths of a decade.
    Values that are (nearly) all equal lie inside one bin, not on an edge where rounding would split them.

    Args:
        values: singular values, any shape.
        weights: how many values each stands for, same shape (1); sums are rounded to integers.

    Returns:
        ``edges`` (41 floats, ascending) and ``counts`` (40 integers). The first bin also counts what is
        smaller than its edge, zeros above all; the last one infinity. NaN is in no bin.

    Example:
        >>> sum(histogram([0.0, 0.5, 1.0])["counts"])
        3
    """
    pooled = np.asarray(values, dtype=np.float64).reshape(-1)
    share = np.ones_like(pooled) if weights is None else np.asarray(weights, dtype=np.float64).reshape(-1)
    pooled, share = pooled[~np.isnan(pooled)], share[~np.isnan(pooled)]
    low, high = _range(pooled[(pooled > 0) & np.isfinite(pooled)])
    edges = [10.0 ** (low + (high - low) * i / BINS) for i in range(BINS + 1)]
    bins = np.clip(np.searchsorted(edges, pooled, side="right") - 1, 0, BINS - 1)
    counts = np.bincount(bins, share, minlength=BINS)
    return {"edges": [*edges], "counts": [round(float(c)) for c in counts]}


def _range(positive: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Decades of the first and the last edge."""
    largest = float(positive.max()) if positive.size else 1.0
    smallest = max(float(positive.min()), largest * SPAN) if positive.size else 1.0
    low, high = math.floor(10 * math.log10(smallest)) / 10, math.ceil(10 * math.log10(largest)) / 10
    if high - low >= 1:
        return low, high
    # One decade with the middle of a bin, not an edge, at the middle of the values.
    start = round(5 * math.log10(smallest * largest)) / 10 - 0.5 + 0.5 / BINS
    return start, start + 1


def _plain(value: object, path: str) -> JsonValue:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or type(value) in {bool, int, float, str}:
        return cast("JsonValue", value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(value[key], f"{path}.{key}") for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}.{i}") for i, item in enumerate(value)]
    raise BadInput(f"report.{path}: expected a plain JSON value, got {type(value).__name__}")


def _words(kind: type | tuple[type, ...]) -> str:
    names = {dict: "an object", list: "a list", str: "a text", type(None): "null"}
    return " or ".join(names[k] for k in (kind if isinstance(kind, tuple) else (kind,)))


def _short(value: object) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {value!r:.60}"
