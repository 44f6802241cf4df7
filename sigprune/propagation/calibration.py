"""Calibration: a network is scaled until its Jacobian has the wanted mean square singular value."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.base.progress import ProgressCallback, ignore
from sigprune.base.readonly import ReadOnlyDict
from sigprune.base.renamed import old_keywords
from sigprune.base.rng import generator
from sigprune.init.policy import TABLES, Part, part_of
from sigprune.values.batch import BatchLike
from sigprune.values.operator import jacobian
from sigprune.values.origin import same_origin
from sigprune.values.view import View, expect_no_parametrised, expect_view
from sigprune.values.weight import Weight

RANGES: Mapping[Part, float] = ReadOnlyDict({"embeddings": 1e3, "weights": 2.0, "heads": 1e6})
"""The parts that are scaled, in this order, and the largest factor (and its inverse) of each.

That of the weights is for dense ones. Where a share s of their entries is not zero, each layer passes about
sqrt(s) of the signal, and where few layers make up for all, classifiers included, each has to do for two: the
largest factor is 1 / s times as large.
"""

_HEAD_LIMIT = 10.0
"""Root mean square singular value, over the target, above which a scaled classifier takes over what the
layers before it should do, so that they hardly learn.
"""

_TRIALS = 16


class ScaledClassifier(UserWarning):
    """The classifier alone was scaled, by so much that the layers before it hardly learn."""


@dataclass(frozen=True)
class Calibration:
    """What was done.

    Attributes:
        before: root mean square singular value of the Jacobian, as estimated.
        after: the same, afterwards.
        factors: part -> what its values were multiplied by; parts that were left alone are missing.
    """

    before: float
    after: float
    factors: Mapping[Part, float]


@old_keywords(report="on_progress")
def calibrate_(
    view: View,
    batch: BatchLike,
    *,
    target: float = 1.0,
    tolerance: float = 0.1,
    probes: int = 8,
    seed: int = 0,
    on_progress: ProgressCallback = ignore,
) -> Calibration:
    """Scale parts of a network, in place, until the root mean square singular value is the target.

    Orthogonal layers alone do not make the whole network isometric: activations lose part of the signal,
    residual branches add to it, and a normalisation of small embeddings amplifies it by the inverse of their
    size. Parts are tried in turn, each as a whole: embedding tables (with position tables and tokens), all
    weights but classifiers (depthwise kernels too), classifiers. Where a factor within :data:`RANGES` reaches
    the target, that part is scaled; a part whose scale a normalisation makes irrelevant is left alone. Zeros
    stay zeros, so that a pruned network keeps its mask; its weights may be scaled by more, by what the zeros
    take away. No labels are used.

    Cost: up to 16 trials per part, each a forward and ``probes`` backward passes on the batch.

    Args:
        view: the network.
        batch: what a data loader yields; its labels are not read.
        target: the root mean square singular value aimed at, 1.0 for isometry. The mean is never larger.
        tolerance: relative deviation that is good enough.
        probes: Gaussian vectors for Hutchinson's estimate of ||J||²_F; the same ones in every trial.
        seed: of the probes.
        on_progress: called with (trials made, trials at most).

    Returns:
        Calibration: before, after and the factors.

    Raises:
        BadInput: a target or tolerance that is not positive, an output that does not depend on the input or
            is not finite, or no part that reaches the target.

    Warns:
        ScaledClassifier: only the classifier reached the target, and its gain is over 10 times that now.

    Example:
        >>> from sigprune import calibrate_, describe, reinit_
        >>> layers = torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)
        >>> view = describe(torch.nn.Sequential(*layers))
        >>> _ = reinit_(view)
        >>> done = calibrate_(view, torch.randn(16, 8))
        >>> abs(done.after - 1) < 0.1
        True
    """
    expect_view(view)
    expect_no_parametrised(view)
    if not (target > 0 and tolerance > 0):
        raise BadInput(f"expected a positive target and tolerance, got {target:g} and {tolerance:g}")
    parts, trials = _parts(view), 0
    max_trials = 1 + _TRIALS * len(parts)

    def level() -> float:
        nonlocal trials
        trials += 1
        on_progress(trials, max_trials)
        return _root_mean_square(view, batch, probes, seed) / target

    before = now = level()
    if not 0 < before < math.inf:
        raise BadInput(f"the root mean square singular value is {before * target:g}: no scale mends that")
    factors: dict[Part, float] = {}
    for part, tensors in parts.items():
        if abs(now - 1) <= tolerance:
            break
        with same_origin(view.module):
            found = _Search(tensors, level, tolerance, math.log(_largest(part, tensors))).run(now)
        if found is not None:
            factors[part], now = found
    if abs(now - 1) > tolerance:
        raise BadInput(
            f"no scale of {', '.join(parts)} brings the root mean square singular value from "
            f"{target * before:.3g} to {target:g}"
        )
    if (gain := _gain(parts.get("heads", []))) > _HEAD_LIMIT * target and "heads" in factors:
        warnings.warn(
            f"the classifier of {view.architecture} was multiplied by {factors['heads']:.3g} and has a gain "
            f"of {gain:.3g} now, as no scale of the parts before it brought the root mean square singular "
            f"value from {target * before:.3g} to {target:g}: they hardly learn so; lower the sparsity, "
            "restore isometry, or leave calibration out",
            ScaledClassifier,
            stacklevel=2,
        )
    return Calibration(target * before, target * now, ReadOnlyDict(factors))


def _largest(part: Part, tensors: list[Tensor]) -> float:
    """The largest factor of a part: larger for pruned weights, by what the zeros take away."""
    if part != "weights":
        return RANGES[part]
    total, left = sum(t.numel() for t in tensors), sum(int(t.count_nonzero()) for t in tensors)
    return RANGES[part] * total / max(left, 1)


def _gain(heads: list[Tensor]) -> float:
    """The largest root mean square singular value of classifiers; 0 where there are none."""
    return max((float(t.double().norm()) / math.sqrt(min(t.flatten(1).shape)) for t in heads), default=0.0)


def scaled_part(weight: Weight) -> Part:
    """The part that a weight is scaled with: depthwise kernels go with all others."""
    part = part_of(weight)
    return "weights" if part == "depthwise kernels" else part


def _parts(view: View) -> dict[Part, list[Tensor]]:
    params = view.params()
    found: dict[Part, list[Tensor]] = {part: [] for part in RANGES}
    for weight in view.weights:
        found[scaled_part(weight)].append(params[weight.magnitude or weight.name])
    found["embeddings"] += [params[name] for name, reason in view.reasons().items() if reason in TABLES]
    if not any(weight.role == "embedding" for weight in view.weights):
        found["embeddings"] = []  # an image is not looked up: its scale is that of the data
    return {part: tensors for part, tensors in found.items() if tensors}


@dataclass(eq=False)
class _Search:
    """A factor of tensors at which a level is 1, by secant steps in logarithms.

    Attributes:
        tensors: what is scaled, in place.
        level: measures.
        tolerance: how far from 1 is near enough.
        reach: largest size of the factor's logarithm.
    """

    tensors: list[Tensor]
    level: Callable[[], float]
    tolerance: float
    reach: float

    def run(self, start: float) -> tuple[float, float] | None:
        """The factor and the level that it gives; None, and the tensors as they were, if none does."""
        originals = [tensor.clone() for tensor in self.tensors]
        place, value = 0.0, math.log(start)
        step = min(max(-value, -0.1), 0.1)  # the first one only tells the slope
        for _ in range(_TRIALS):
            there = min(max(place + step, -self.reach), self.reach)
            if there == place:  # at the end of the range
                break
            self._set_(originals, math.exp(there))
            reached = self.level()
            if not 0 < reached < math.inf:
                step = (there - place) / 4  # it over- or underflowed: not so far
                continue
            if abs(reached - 1) <= self.tolerance:
                return math.exp(there), reached
            slope = (math.log(reached) - value) / (there - place)
            place, value = there, math.log(reached)
            step = -value / math.copysign(max(abs(slope), 0.05), slope)
        self._set_(originals, 1.0)
        return None

    def _set_(self, originals: list[Tensor], factor: float) -> None:
        with torch.no_grad():
            for tensor, original in zip(self.tensors, originals, strict=True):
                torch.mul(original, factor, out=tensor)


def _root_mean_square(view: View, batch: BatchLike, probes: int, seed: int) -> float:
    """sqrt(||J||²_F / min(outputs, inputs)): E ||Jᵀ u||² = ||J||²_F for Gaussian u (Hutchinson 1989).

    With no more outputs than probes the sum over unit vectors is exact.
    """
    operator = jacobian(view, batch)
    outputs = operator.shape[0]
    draws = math.sqrt(outputs) * torch.eye(outputs, dtype=torch.float64)[:, None]
    if outputs > probes:
        draws = torch.randn(probes, 1, outputs, generator=generator(seed, "calibrate"), dtype=torch.float64)
    draws = draws.expand(-1, operator.examples, -1).to(operator.device, operator.dtype)
    products = operator.rmatmat(draws).double()
    return math.sqrt(float(products.square().sum(2).mean()) / min(operator.shape))
