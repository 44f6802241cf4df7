"""What a run measured as the plain JSON of a report."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import cast

import torch

from sigprune import __version__
from sigprune.base.registry import JsonValue
from sigprune.init.policy import Treatment
from sigprune.report.record import AFRESH, SCHEMA, Report, histogram
from sigprune.report.run_record import (
    CalibrationRecord,
    Evaluation,
    Measurement,
    ModelRecord,
    PartRecord,
    PreprocessingRecord,
    RepairRecord,
    RunRecord,
)
from sigprune.report.schema import Moment
from sigprune.sources.reference import ModelRef
from sigprune.values.finding import Finding
from sigprune.values.mask import Mask
from sigprune.values.origin import Replaced
from sigprune.values.orthogonality import singular_values
from sigprune.values.view import View

_LIBRARIES = ("torch", "timm", "transformers")


def report_of(
    record: RunRecord,
    view: View,
    mask: Mask,
    *,
    recipe: Mapping[str, JsonValue],
    digest: str,
    files: Mapping[str, Mapping[str, JsonValue]],
) -> Report:
    """The report of a finished run.

    Args:
        record: what was measured.
        view: the network.
        mask: what was removed.
        recipe: every default resolved.
        digest: of the recipe.
        files: file name -> its size in ``bytes`` and its ``sha256``.
    """
    assert record.model is not None, "a run initialises its model before it reports"
    device = next(view.module.parameters()).device
    skipped = record.evaluation_skipped
    return Report({
        "schema": SCHEMA,
        "recipe": recipe,
        "digest": digest,
        "versions": of_versions(device),
        "model": of_model(record.model),
        "preprocessing": None if record.preprocessing is None else of_preprocessing(record.preprocessing),
        "init": [
            {"part": row.part, "tensors": row.tensors, "does": row.action, "reason": row.reason}
            for row in record.parts
        ],
        "signal": [of_measurement(measured) for measured in record.measurements],
        "calibration": [of_calibration(calibration) for calibration in record.calibrations],
        "isometry": None if record.repair is None else of_repair(record.repair),
        "findings": [of_finding(finding) for finding in record.findings],
        "mask": of_mask(view, mask),
        "training": {"epochs": record.training},
        "dense": None if record.dense is None else {"epochs": record.dense},
        "evaluation": of_evaluation(record.evaluation, record.reload_difference),
        **({"evaluation_skipped": skipped} if skipped else {}),
        "checks": record.checks,
        "files": files,
        "timing": {"seconds": record.seconds},
    })


def model_record(
    view: View, ref: ModelRef, written: str, opened: Sequence[str], *, kept: bool
) -> ModelRecord:
    """Count a model.

    Args:
        view: the network.
        ref: what it was opened by.
        written: the same as the recipe writes it.
        opened: names of the gates that were opened.
        kept: it keeps trained weights.
    """
    from_hub = kept and ref.kind == "hub"
    return ModelRecord(
        ref=written,
        base_model=ref.name if from_hub else None,
        revision=ref.revision if from_hub else None,
        library=view.library,
        architecture=view.architecture,
        parameters=sum(p.numel() for p in view.module.parameters()),
        prunable=Mask.dense(view.prunable_shapes()).total,
        weights=len(view.weights),
        skipped=dict(Counter(view.reasons().values())),
        gates_opened=tuple(opened),
    )


def part_records(
    view: View, treated: Sequence[Treatment], replaced: Replaced | None = None
) -> tuple[PartRecord, ...]:
    """A record for each part of the network: how many tensors, what was done to them, why.

    What standardised weights are to the function has a record of its own, measured on the values of now; so
    do tensors that are not the pretrained weights' own (``replaced``), and that the recipe keeps as they are.
    """
    kept = {name for one in treated if one.kept for name in one.names}
    drawn = {name for one in treated if not one.kept for name in one.names}
    fresh = set(replaced.names) - drawn if replaced else set[str]()
    records: list[PartRecord] = []
    for one in treated:
        names = set(one.names) - fresh
        if names:
            records.append(PartRecord(one.part, len(names), one.action, one.reason))
    if replaced and fresh & kept:
        heads = {weight.name for weight in view.weights if weight.role == "head"}
        part = "replaced classifier" if fresh & heads else "not in the weights"
        records.append(PartRecord(part, len(fresh), AFRESH, replaced.reason))
    standardised = [weight for weight in view.weights if weight.standardised]
    if standardised:
        params = view.params()
        used = [singular_values(weight.layout.blocks(weight.effective(params))) for weight in standardised]
        smallest, largest = min(float(v.min()) for v in used), max(float(v.max()) for v in used)
        spread = max(float(v.max() / v.min()) for v in used) - 1
        records.append(
            PartRecord(
                "standardised weights",
                len(standardised),
                f"used with singular values from {smallest:.4g} to {largest:.4g}; within one weight they "
                f"differ by at most {spread:.2g} of the smallest",
                "the module subtracts the mean of each filter and divides by its deviation, so that "
                "removed entries do not stay zero in what it uses",
            )
        )
    return tuple(records)


def provenance_of(record: RunRecord, recipe: Mapping[str, JsonValue], digest: str) -> dict[str, JsonValue]:
    """What the manifest of a run's checkpoint says of where it comes from."""
    facts: dict[str, JsonValue] = {
        "recipe": dict(recipe),
        "recipe_digest": digest,
        "versions": {"sigprune": __version__, **{name: version(name) for name in _LIBRARIES}},
    }
    if record.model is not None and record.model.base_model:
        facts |= {"base_model": record.model.base_model, "revision": record.model.revision}
    return facts


def of_model(model: ModelRecord) -> dict[str, JsonValue]:
    """The model, counted."""
    return {
        "ref": model.ref,
        "base_model": model.base_model,
        "library": model.library,
        "architecture": model.architecture,
        "parameters": model.parameters,
        "prunable": model.prunable,
        "weights": model.weights,
        "skipped": dict(model.skipped),
        "gates_opened": list(model.gates_opened),
    }


def of_preprocessing(record: PreprocessingRecord) -> dict[str, JsonValue]:
    """How an image file becomes an input."""
    height, width = record.known.size
    return {
        "height": height,
        "width": width,
        "mean": list(record.known.normalisation.mean),
        "std": list(record.known.normalisation.std),
        "normalisation": "weights" if record.from_weights else "data",
        "labels": list(record.known.labels),
        "classes": record.classes,
    }


def of_measurement(measured: Measurement) -> Moment:
    """How they were found, summary and histogram of the singular values, and the gains of the stages.

    A quadrature node counts as the number of singular values that it stands for; moments fill no bin.
    """
    spectrum = measured.spectrum
    summary, shares = spectrum.summary(), spectrum.weights
    counts = None if shares is None else shares.reshape(-1) * (summary.count / len(shares))
    plain = {
        "moment": measured.moment,
        "method": spectrum.method,
        "kind": spectrum.kind,
        "summary": dict(summary.to_dict()),
        "histogram": histogram(
            spectrum.values.reshape(-1).tolist(), None if counts is None else counts.tolist()
        ),
        "profile": [asdict(row) for row in measured.gains.stages] if measured.gains else [],
    }
    return cast("Moment", plain)


def of_repair(record: RepairRecord) -> dict[str, JsonValue]:
    """Residuals per weight before and after, and what bounds them from below."""
    done = record.result
    sides = {"before": done.before, "after": done.after, "floor": done.floor}
    return {"method": record.method, **{side: dict(residuals) for side, residuals in sides.items()}}


def of_calibration(record: CalibrationRecord) -> dict[str, JsonValue]:
    """What the network was scaled by, and the root mean square singular value before and after."""
    return {
        "moment": record.moment,
        "before": record.result.before,
        "after": record.result.after,
        "factors": {str(k): v for k, v in record.result.factors.items()},
    }


def of_mask(view: View, mask: Mask) -> dict[str, JsonValue]:
    """Counts per layer and in total, and the digest; heads that stayed dense, if any did."""
    weights = {w.name: w for w in view.weights}
    heads: list[JsonValue] = [w.name for w in view.weights if w.role == "head" and w.name not in mask.keep]
    layers: list[JsonValue] = []
    for name, (kept, total) in mask.counts().items():
        weight = weights.get(name)
        role, stage = (weight.role, weight.stage) if weight else ("bias", "")
        layers.append({"name": name, "role": role, "stage": stage, "kept": kept, "total": total})
    return {
        "sparsity": mask.sparsity,
        "kept": mask.kept,
        "total": mask.total,
        "digest": mask.digest(),
        "layers": layers,
        **({"dense_heads": heads} if heads else {}),
    }


def of_finding(finding: Finding) -> dict[str, JsonValue]:
    """One finding with its verdict."""
    return {
        "name": finding.name,
        "where": finding.where,
        "value": finding.value,
        "low": finding.low,
        "high": finding.high,
        "required": finding.required,
        "ok": finding.ok,
        "remedy": finding.remedy,
    }


def of_evaluation(scores: Evaluation | None, reload_difference: float | None) -> dict[str, JsonValue]:
    """Accuracies, and how far the outputs of the loaded network are from those of the trained one."""
    plain: dict[str, JsonValue] = {}
    if scores is not None:
        plain |= {
            "test_accuracy": scores.sparse,
            "dense_test_accuracy": scores.dense,
            "examples": scores.examples,
            "majority_accuracy": scores.majority,
        }
    return plain | ({} if reload_difference is None else {"reload_difference": reload_difference})


def of_versions(device: torch.device) -> dict[str, JsonValue]:
    """What made the result, and where: other versions, devices or threads give other last bits."""
    cuda = device.type == "cuda"
    place = torch.cuda.get_device_name(device) if cuda else f"cpu with {torch.get_num_threads()} threads"
    machine: dict[str, JsonValue] = {
        "sigprune": __version__,
        "python": platform.python_version(),
        "device": place,
    }
    return machine | {name: version(name) for name in _LIBRARIES}
