"""Profiling: the gain of the signal, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sigprune.base.errors import BadInput, one_line
from sigprune.base.seeds import generator
from sigprune.base.tensors import Tensors
from sigprune.values.batch import Batch, BatchLike
from sigprune.values.gains import Profile, StageGain
from sigprune.values.operator import differentiable, expect_finite
from sigprune.values.taps import Tap, reading_all
from sigprune.values.view import View, expect_view


def profile(view: View, batch: BatchLike, *, probes: int = 8, seed: int = 0) -> Profile:
    """The gain profile, stage by stage: where a signal dies or explodes on its way to the output, or back.

    For the output of every stage in ``view.stages()``: the forward gain sqrt(||J||²_F / n) of the Jacobian J
    from the input, and the backward gain of the Jacobian to the output. n is the number of singular values
    per example, the smaller of the two sides of J, so that each gain is a root mean square singular value: 1
    for an isometry between any two sizes, and at the last stage that of the whole network.

    Args:
        view: the network.
        batch: what a data loader yields.
        probes: random directions per example and side, orthogonal to each other; as many as the input (or
            output) has entries make the gains exact.
        seed: of the directions.

    Returns:
        Profile in the order in which stages run. Standard errors are those of the probes on these examples
        (NaN for a single probe, 0 where they span the space). Stages that run several times, or whose tensor
        does not count the examples first, are left out with a note; where the network has no forward-mode
        derivative or no continuous input, forward gains are NaN with a note. Cost: per probe one forward-mode
        pass for all stages and one backward pass for all stages.

    Raises:
        BadInput: no examples, no probes, or a parameter that is not finite.

    Source: ||J||²_F as the mean of ||J v||² over random v (Hutchinson 1989, doi 10.1080/03610918908812806);
    the singular values as in Lee et al. 2020, arXiv 1906.06307, section 3.

    Example:
        >>> from sigprune import describe, profile
        >>> view = describe(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)))
        >>> with torch.no_grad():
        ...     _ = view.module[1].weight.mul_(1e-6)
        >>> profile(view, torch.randn(4, 8)).weakest.stage
        '1'
    """
    expect_view(view)
    batch = view.read(batch)
    if len(batch) == 0 or probes < 1:
        raise BadInput(f"a profile needs an example and a probe, got {len(batch)} and {probes}")
    expect_finite(view.params())
    if view.embed is not None:
        batch = view.embed(batch)
    with differentiable():
        looked = _look(view, batch)
        backward = _backward(looked, probes, seed)
        forward, reason = _forward(view, batch, looked, probes, seed)
    rows = []
    for stage, value in looked.stages.items():
        ahead, back = forward.get(stage, _UNKNOWN), backward.get(stage, _UNKNOWN)
        activation = float(value.detach().double().square().mean().sqrt())
        rows.append(StageGain(stage, *ahead, *back, activation))
    return Profile(tuple(rows), looked.notes | ({"forward": reason} if reason else {}))


Gain = tuple[float, float]
_UNKNOWN: Gain = (math.nan, math.nan)


@dataclass(frozen=True, eq=False)
class _Looked:
    """One forward pass: the tensors of the stages that count examples, why others do not, and the output."""

    output: Tensor
    stages: Tensors
    notes: dict[str, str]


def _look(view: View, batch: Batch) -> _Looked:
    leaves = {k: x.detach().requires_grad_() if x.is_floating_point() else x for k, x in batch.inputs.items()}
    with torch.enable_grad(), reading_all(view, view.stages()) as taps:
        output = view.forward({}, replace(batch, inputs={k: x.clone() for k, x in leaves.items()}))
    stages, notes = _read(taps, len(batch))
    unseen = {stage: "it does not run" for stage in view.stages() if stage not in taps}
    return _Looked(output, stages, notes | unseen)


def _read(taps: Mapping[str, Tap], examples: int) -> tuple[Tensors, dict[str, str]]:
    values: Tensors = {}
    notes = {}
    for stage, tap in taps.items():
        try:
            values[stage] = tap.read(examples)
        except BadInput as error:
            notes[stage] = str(error)
    return values, notes


def _backward(looked: _Looked, probes: int, seed: int) -> dict[str, Gain]:
    """Cotangents of all stages, one backward pass per probe."""
    output, stages = looked.output, {k: t for k, t in looked.stages.items() if t.requires_grad}
    if not output.requires_grad or not stages:
        return {}
    products = []
    for probe in _probes(output, probes, seed, "output"):
        grads = torch.autograd.grad(
            output, list(stages.values()), probe, retain_graph=True, allow_unused=True
        )
        products.append(_squares(dict(zip(stages, grads, strict=True))))
    return _gains(products, stages, output)


def _forward(
    view: View, batch: Batch, looked: _Looked, probes: int, seed: int
) -> tuple[dict[str, Gain], str]:
    """Tangents of all stages, one forward-mode pass per probe; or why there are none."""
    name = next((k for k, v in batch.inputs.items() if v.is_floating_point()), None)
    if name is None:
        return {}, f"{view.architecture} has no continuous input: only backward gains are known"
    point = batch.inputs[name].detach().contiguous()  # images of one channel may repeat it

    def run(x: Tensor) -> Tensors:
        with reading_all(view, tuple(looked.stages)) as taps:
            view.forward({}, replace(batch, inputs={**batch.inputs, name: x.clone()}))
        return _read(taps, len(batch))[0]

    products = []
    try:
        for probe in _probes(point, probes, seed, "input"):
            products.append(_squares(torch.func.jvp(run, (point,), (probe,))[1]))
    except (RuntimeError, NotImplementedError) as error:
        if "forward" not in str(error) and "jvp" not in str(error):
            raise
        return {}, f"no forward-mode derivative, only backward gains are known: {one_line(error)}"
    return _gains(products, looked.stages, point), ""


def _squares(products: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """Squared norms, (examples,) each, on the CPU; no dependence is zero."""
    return {
        stage: torch.zeros(1, dtype=torch.float64)
        if t is None
        else t.detach().double().flatten(1).square().sum(1).cpu()
        for stage, t in products.items()
    }


def _gains(products: list[dict[str, Tensor]], stages: Tensors, end: Tensor) -> dict[str, Gain]:
    """Gain and standard error from ||J v||² of every probe and example; ``end`` is where the probes live."""
    space = end[0].numel()
    return {
        stage: _gain(torch.stack([p[stage] for p in products]), space, min(space, stages[stage][0].numel()))
        for stage in products[0]
    }


def _gain(squares: Tensor, space: int, count: int) -> Gain:
    """From (probes, examples) squares; orthogonal probes are as draws without replacement."""
    probes, examples = squares.shape
    gain = math.sqrt(float(squares.mean()) / count)
    if probes == space or gain == 0:
        return gain, 0.0
    if probes == 1:
        return gain, math.nan
    variance = float(squares.var(0).sum()) / (probes * examples**2) * (1 - probes / space)
    return gain, math.sqrt(variance) / (2 * gain * count)


def _probes(end: Tensor, probes: int, seed: int, side: str) -> list[Tensor]:
    """Random directions of the shape of ``end``, orthogonal within each example, of norm sqrt(space)."""
    examples, space = len(end), end[0].numel()
    draws = torch.randn(
        examples, space, min(probes, space), generator=generator(seed, "profile", side), dtype=torch.float64
    )
    directions = torch.linalg.qr(draws).Q.mul_(math.sqrt(space)).permute(2, 0, 1)
    return [d.reshape(end.shape).to(end.device, end.dtype) for d in directions]
