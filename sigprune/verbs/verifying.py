"""Verifying that signal propagates: measured values against bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from sigprune.base.errors import UnknownName
from sigprune.values.batch import BatchLike
from sigprune.values.finding import BOUNDS, Bound, Finding, Findings
from sigprune.values.mask import Mask
from sigprune.values.operator import jacobian
from sigprune.values.spectrum import Spectrum
from sigprune.values.view import View
from sigprune.verbs.measuring import measure


@dataclass(frozen=True, eq=False)
class Evidence:
    """What findings are drawn from; absent evidence leaves out the findings that need it.

    Attributes:
        view: the network as it stands.
        batch: what a data loader yields.
        spectrum: of its Jacobian on the batch.
        mask: what was pruned.
        dead: weights whose scores were all zero.
    """

    view: View
    batch: BatchLike
    spectrum: Spectrum | None = None
    mask: Mask | None = None
    dead: tuple[str, ...] | None = None


def verify(
    view: View,
    batch: BatchLike,
    bounds: Mapping[str, Bound] | None = None,
    *,
    mask: Mask | None = None,
    seed: int = 0,
) -> Findings:
    """Check a network: finite output, singular values of its Jacobian, weights without a kept entry.

    Args:
        view: the network as it stands.
        batch: what a data loader yields; the Jacobian is measured on it, exactly where that is affordable.
        bounds: finding name -> bounds that replace the defaults in ``sigprune.values.finding.BOUNDS``.
        mask: what was pruned, if anything.
        seed: for spectrum methods that draw probes.

    Returns:
        Findings; ``.ok`` says whether every required one keeps its bounds, ``.require()`` raises otherwise.

    Example:
        >>> from sigprune import describe, reinit_, verify
        >>> view = describe(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)))
        >>> _ = reinit_(view)
        >>> [(f.name, f.ok) for f in verify(view, torch.randn(4, 8))]
        [('finite_output', True), ('mean_jsv', True), ('condition_number', True)]
    """
    spectrum = measure(jacobian(view, batch), seed=seed)
    return judge(Evidence(view, batch, spectrum, mask), bounds)


def judge(evidence: Evidence, bounds: Mapping[str, Bound] | None = None, where: str = "network") -> Findings:
    """The findings that the evidence allows, each against its bounds.

    Raises:
        UnknownName: bounds for a finding that does not exist.
    """
    for name in bounds or {}:
        if name not in BOUNDS:
            raise UnknownName("finding", name, BOUNDS)
    limits = {**BOUNDS, **(bounds or {})}
    found = []
    for name, check in _CHECKS.items():
        result = check(evidence)
        if result is not None:
            value, place, remedy = result
            limit = limits[name]
            found.append(Finding(name, place or where, value, limit.low, limit.high, limit.required, remedy))
    return Findings(tuple(found))


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
    if evidence.dead is None:
        return None
    return float(len(evidence.dead)), _first(evidence.dead), "no score can rank them: set init.gates: open"


def _collapsed_weights(evidence: Evidence) -> Result:
    if evidence.mask is None:
        return None
    names = {w.name for w in evidence.view.weights}
    empty = tuple(n for n, (kept, _) in evidence.mask.counts().items() if kept == 0 and n in names)
    return (
        float(len(empty)),
        _first(empty),
        "nothing is left of them: lower prune.sparsity, set prune.allocation: erk, or prune.exclude them",
    )


def _standardised_weights(evidence: Evidence) -> Result:
    if evidence.mask is None:
        return None
    names = tuple(w.name for w in evidence.view.weights if w.standardised and w.name in evidence.mask.keep)
    return (
        float(len(names)),
        _first(names),
        "the module standardises them before use: stored zeros do not stay zeros",
    )


def _first(names: tuple[str, ...]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else "".join(names)


_CHECKS: Mapping[str, Callable[[Evidence], Result]] = {
    "finite_output": _finite_output,
    "mean_jsv": _mean_jsv,
    "condition_number": _condition_number,
    "dead_weights": _dead_weights,
    "collapsed_weights": _collapsed_weights,
    "standardised_weights": _standardised_weights,
}
