"""Verifying that signal propagates: measured values against bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from sigprune.base.errors import BadInput, UnknownName
from sigprune.propagation.emptied import KEEPING, emptied, listed
from sigprune.propagation.gain_profile import profile
from sigprune.propagation.measurement import measure
from sigprune.propagation.reachability import dead_units, effective
from sigprune.propagation.unranked import Unranked
from sigprune.values.batch import BatchLike
from sigprune.values.finding import BOUNDS, Bound, Finding, Findings
from sigprune.values.gains import Profile
from sigprune.values.mask import Mask
from sigprune.values.operator import jacobian
from sigprune.values.spectrum import Spectrum
from sigprune.values.view import View


@dataclass(frozen=True, eq=False)
class Evidence:
    """What findings are drawn from; absent evidence leaves out the findings that need it.

    Attributes:
        view: the network as it stands.
        batch: what a data loader yields.
        spectrum: of its Jacobian on the batch.
        mask: what was pruned.
        unranked: weights and blocks whose scores were all zero, and experts that no example reached.
        gains: of its stages on the batch; they tell where the signal dies.
        on_path: the part of the mask that lies on a path, or why it is not known.
    """

    view: View
    batch: BatchLike
    spectrum: Spectrum | None = None
    mask: Mask | None = None
    unranked: Unranked | None = None
    gains: Profile | None = None
    on_path: Mask | str | None = None


def verify(
    view: View,
    batch: BatchLike,
    bounds: Mapping[str, Bound] | None = None,
    *,
    mask: Mask | None = None,
    seed: int = 0,
) -> Findings:
    """Check a network: finite output, singular values of its Jacobian, what pruning has cut off.

    Args:
        view: the network as it stands.
        batch: what a data loader yields; the Jacobian is measured on it, exactly where that is affordable.
        bounds: finding name -> bounds that replace the defaults in ``sigprune.values.finding.BOUNDS``.
        mask: what was pruned, if anything.
        seed: for what draws probes.

    Returns:
        Findings; ``.ok`` says whether every required one keeps its bounds, ``.require()`` raises otherwise.
        Those about the signal name the stage at which it changes most. Cost: an exact spectrum, a profile of
        two probes and, with a mask, one pass of :func:`sigprune.propagation.reachability.effective`.

    Example:
        >>> from sigprune import describe, reinit_, verify
        >>> view = describe(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)))
        >>> _ = reinit_(view)
        >>> [(f.name, f.ok) for f in verify(view, torch.randn(4, 8))]
        [('finite_output', True), ('mean_jsv', True), ('condition_number', True)]
    """
    spectrum = measure(jacobian(view, batch), seed=seed)
    gains = profile(view, batch, probes=2, seed=seed)
    on_path = None if mask is None else paths_of(view, mask)
    return judge(Evidence(view, batch, spectrum, mask, gains=gains, on_path=on_path), bounds)


def paths_of(view: View, mask: Mask) -> Mask | str:
    """The kept entries that lie on a path, or why that cannot be told."""
    try:
        return effective(view, mask)
    except BadInput as error:
        return str(error)


def judge(evidence: Evidence, bounds: Mapping[str, Bound] | None = None, where: str = "network") -> Findings:
    """The findings that the evidence allows, each against its bounds.

    Raises:
        UnknownName: bounds for a finding that does not exist.
    """
    for name in bounds or {}:
        if name not in BOUNDS:
            raise UnknownName("finding", name, BOUNDS)
    limits = {**BOUNDS, **(bounds or {})}
    found: list[Finding] = []
    for name, check in _CHECKS.items():
        result = check(evidence)
        if result is not None:
            value, place, remedy = result
            limit, start = limits[name], _start(name, evidence)
            low, high = start + limit.low, start + limit.high
            finding = Finding(name, place or where, value, low, high, limit.required, remedy)
            found.append(_located(finding, evidence.gains))
    blocks = evidence.unranked.findings() if evidence.unranked else ()
    return Findings((*found, *blocks)) + _emptied(evidence)


def _start(name: str, evidence: Evidence) -> float:
    """What the bounds of a finding are relative to."""
    return evidence.mask.sparsity if name == "effective_sparsity" and evidence.mask is not None else 0.0


def _located(finding: Finding, gains: Profile | None) -> Finding:
    """With the stage at which the signal changes most, in the direction that was found wrong."""
    if finding.ok or gains is None or finding.name not in {"finite_output", "mean_jsv", "condition_number"}:
        return finding
    falling = finding.name == "condition_number" or finding.value < finding.low
    wrong = None if finding.name == "finite_output" or math.isnan(finding.value) else falling
    change = gains.largest_change(falling=wrong)
    return finding if change is None else replace(finding, remedy=f"{finding.remedy}; {change}")


Result = tuple[float, str, str] | None


def _finite_output(evidence: Evidence) -> Result:
    with torch.no_grad():
        output = evidence.view.forward({}, evidence.view.read(evidence.batch))
    finite = float(torch.isfinite(output).double().mean())
    return finite, "", "the signal overflows: lower init.method.gain, or set init.gates: keep"


def _mean_jsv(evidence: Evidence) -> Result:
    if evidence.spectrum is None:
        return None
    summary = evidence.spectrum.summary()
    weak = "the signal dies out: raise init.method.gain, or restore isometry if that is off"
    remedy = weak if summary.level < 1 else "the signal explodes: lower init.method.gain"
    return summary.level, "", remedy + _estimated(evidence.spectrum)


def _estimated(spectrum: Spectrum) -> str:
    """What a value that was not measured exactly is instead."""
    if spectrum.kind == "exact":
        return ""
    word = "the root mean square" if math.isnan(spectrum.mean.value) else "the mean"
    return f" ({word} is an estimate: {spectrum.method})"


def _condition_number(evidence: Evidence) -> Result:
    if evidence.spectrum is None or evidence.spectrum.kind != "exact":
        return None  # no estimate knows the smallest value
    return (
        evidence.spectrum.summary().condition,
        "",
        "some directions die: lower prune.sparsity, or restore isometry if that is off",
    )


def _dead_weights(evidence: Evidence) -> Result:
    if evidence.unranked is None:
        return None
    dead = evidence.unranked.weights
    return float(len(dead)), listed(dead), evidence.unranked.cause


def _collapsed_weights(evidence: Evidence) -> Result:
    if evidence.mask is None:
        return None
    names = {w.name for w in evidence.view.weights}
    empty = tuple(n for n, (kept, _) in evidence.mask.counts().items() if kept == 0 and n in names)
    return float(len(empty)), listed(empty), f"nothing is left of them: {KEEPING}"


def _standardised_weights(evidence: Evidence) -> Result:
    if evidence.mask is None:
        return None
    names = tuple(w.name for w in evidence.view.weights if w.standardised and w.name in evidence.mask.keep)
    return (
        float(len(names)),
        _first(names),
        "the module standardises them before use: stored zeros do not stay zeros",
    )


def _effective_sparsity(evidence: Evidence) -> Result:
    mask, on_path = evidence.mask, evidence.on_path
    if mask is None or on_path is None:
        return None
    if isinstance(on_path, str):
        return math.nan, "", on_path
    cut = {name: (kept - on_path.counts()[name][0], kept) for name, (kept, _) in mask.counts().items()}
    return (
        on_path.sparsity,
        _worst(cut, "kept entries on no path"),
        "what is cut off acts on nothing: lower prune.sparsity, or set prune.allocation: erk",
    )


def _dead_units(evidence: Evidence) -> Result:
    if evidence.on_path is None:
        return None
    if isinstance(evidence.on_path, str):
        return math.nan, "", evidence.on_path
    units = dead_units(evidence.view, evidence.on_path)
    return (
        units.share,
        _worst(units.dead, "units on no path"),
        "they are constant, or nothing reads them: lower prune.sparsity, or set prune.allocation: erk",
    )


def _emptied(evidence: Evidence) -> Findings:
    """What the mask empties besides whole weights, which have bounds of the recipe."""
    whole = Findings() if evidence.mask is None else emptied(evidence.view, evidence.mask).findings()
    return Findings(tuple(finding for finding in whole if finding.name not in BOUNDS))


def _worst(counts: Mapping[str, tuple[int, int]], what: str) -> str:
    """The three weights that lost the largest share, and how many more lost any."""
    lost = sorted((n for n, (some, _) in counts.items() if some), key=lambda n: -counts[n][0] / counts[n][1])
    counted = [f"{name}: {counts[name][0]:,} of {counts[name][1]:,}" for name in lost[:3]]
    more = f", and {len(lost) - 3} more" if len(lost) > 3 else ""
    return f"{what} in {', '.join(counted)}{more}" if counted else ""


def _first(names: tuple[str, ...]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else "".join(names)


_CHECKS: Mapping[str, Callable[[Evidence], Result]] = {
    "finite_output": _finite_output,
    "mean_jsv": _mean_jsv,
    "condition_number": _condition_number,
    "dead_weights": _dead_weights,
    "collapsed_weights": _collapsed_weights,
    "standardised_weights": _standardised_weights,
    "effective_sparsity": _effective_sparsity,
    "dead_units": _dead_units,
}
