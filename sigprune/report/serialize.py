"""Facts: what values look like in a report, as plain JSON."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version

import torch
from torch import Tensor

from sigprune import __version__
from sigprune.base.registry import Plain
from sigprune.init.policy import Treatment
from sigprune.models.opening import split_ref
from sigprune.propagation.calibration import Calibration
from sigprune.propagation.repair import Restoration
from sigprune.report.record import AFRESH, histogram
from sigprune.values.finding import Finding
from sigprune.values.gains import Profile
from sigprune.values.mask import Mask
from sigprune.values.origin import Replaced
from sigprune.values.orthogonality import singular_values
from sigprune.values.preprocessing import Preprocessing
from sigprune.values.spectrum import Spectrum
from sigprune.values.view import View


def of_model(view: View, ref: str, opened: tuple[str, ...], *, kept: bool) -> dict[str, Plain]:
    """The model, counted; ``opened`` names the opened gates, ``kept`` says that it keeps trained weights."""
    reference = split_ref(ref)
    return {
        "ref": ref,
        "base_model": reference.name if kept and reference.kind == "hub" else None,
        "library": view.library,
        "architecture": view.architecture,
        "parameters": sum(p.numel() for p in view.module.parameters()),
        "prunable": Mask.dense(view.prunable_shapes()).total,
        "weights": len(view.weights),
        "skipped": dict(Counter(view.reasons().values())),
        "gates_opened": list(opened),
    }


def of_preprocessing(
    known: Preprocessing | None, classes: int, *, from_weights: bool
) -> dict[str, Plain] | None:
    """How an image file becomes an input; ``from_weights``: normalised as pretrained weights want it."""
    if known is None:
        return None
    height, width = known.size
    return {
        "height": height,
        "width": width,
        "mean": list(known.normalisation.mean),
        "std": list(known.normalisation.std),
        "normalisation": "weights" if from_weights else "data",
        "labels": list(known.labels),
        "classes": classes,
    }


def of_init(view: View, treated: Sequence[Treatment], replaced: Replaced | None = None) -> list[Plain]:
    """One row for each part of the network: how many tensors, what was done to them, why.

    What standardised weights are to the function has a row of its own, measured after initialisation; so do
    tensors that are not the pretrained weights' own (``replaced``), and that the recipe keeps as they are.
    """
    kept = {name for one in treated if one.kept for name in one.names}
    drawn = {name for one in treated if not one.kept for name in one.names}
    fresh = set(replaced.names) - drawn if replaced else set[str]()
    rows: list[Plain] = []
    for one in treated:
        names = set(one.names) - fresh
        if names:
            rows.append({"part": one.part, "tensors": len(names), "does": one.does, "reason": one.reason})
    if replaced and fresh & kept:
        heads = {weight.name for weight in view.weights if weight.role == "head"}
        part = "replaced classifier" if fresh & heads else "not in the weights"
        rows.append({"part": part, "tensors": len(fresh), "does": AFRESH, "reason": replaced.reason})
    standardised = [weight for weight in view.weights if weight.standardised]
    if standardised:
        params = view.params()
        used = [singular_values(weight.layout.blocks(weight.effective(params))) for weight in standardised]
        smallest, largest = min(float(v.min()) for v in used), max(float(v.max()) for v in used)
        spread = max(float(v.max() / v.min()) for v in used) - 1
        rows.append({
            "part": "standardised weights",
            "tensors": len(standardised),
            "does": f"used with singular values from {smallest:.4g} to {largest:.4g}; within one weight they "
            f"differ by at most {spread:.2g} of the smallest",
            "reason": "the module subtracts the mean of each filter and divides by its deviation, so that "
            "removed entries do not stay zero in what it uses",
        })
    return rows


def of_spectrum(moment: str, spectrum: Spectrum, gains: Profile | None = None) -> dict[str, Plain]:
    """How they were found, summary and histogram of the singular values, and the gains of the stages.

    A quadrature node counts as the number of singular values that it stands for; moments fill no bin.
    """
    summary, shares = spectrum.summary(), spectrum.weights
    counts = None if shares is None else shares.reshape(-1) * (summary.count / len(shares))
    return {
        "moment": moment,
        "method": spectrum.method,
        "kind": spectrum.kind,
        "summary": dict(summary.to_dict()),
        "histogram": histogram(
            spectrum.values.reshape(-1).tolist(), None if counts is None else counts.tolist()
        ),
        "profile": [asdict(row) for row in gains.stages] if gains else [],
    }


def of_restoration(method: str, done: Restoration) -> dict[str, Plain]:
    """Residuals per weight before and after, and what bounds them from below."""
    sides = {"before": done.before, "after": done.after, "floor": done.floor}
    return {"method": method, **{side: dict(residuals) for side, residuals in sides.items()}}


def of_calibration(moment: str, done: Calibration) -> dict[str, Plain]:
    """What the network was scaled by, and the root mean square singular value before and after."""
    return {
        "moment": moment,
        "before": done.before,
        "after": done.after,
        "factors": {str(k): v for k, v in done.factors.items()},
    }


def of_mask(view: View, mask: Mask) -> dict[str, Plain]:
    """Counts per layer and in all, and the digest; heads that stayed dense, if any did."""
    weights = {w.name: w for w in view.weights}
    heads: list[Plain] = [w.name for w in view.weights if w.role == "head" and w.name not in mask.keep]
    layers: list[Plain] = []
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


def of_finding(finding: Finding) -> dict[str, Plain]:
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


def of_origin(
    recipe: Mapping[str, Plain], digest: str, model: Plain, revision: str | None
) -> dict[str, Plain]:
    """What a manifest says of where a run's checkpoint comes from; ``model`` as :func:`of_model` has it."""
    base_model = model.get("base_model") if isinstance(model, dict) else None
    libraries: dict[str, Plain] = {name: version(name) for name in ("torch", "timm", "transformers")}
    said: dict[str, Plain] = {
        "recipe": dict(recipe),
        "recipe_digest": digest,
        "versions": {"sigprune": __version__, **libraries},
    }
    return said | ({"base_model": base_model, "revision": revision} if base_model else {})


def of_versions(device: torch.device) -> dict[str, Plain]:
    """What made the result, and where: other versions, devices or threads give other last bits."""
    cuda = device.type == "cuda"
    place = torch.cuda.get_device_name(device) if cuda else f"cpu with {torch.get_num_threads()} threads"
    own: dict[str, Plain] = {"sigprune": __version__, "python": platform.python_version(), "device": place}
    return own | {name: version(name) for name in ("torch", "timm", "transformers")}


def majority(labels: Tensor) -> float:
    """The accuracy of always saying the most frequent class."""
    return int(labels.bincount().max()) / len(labels)
