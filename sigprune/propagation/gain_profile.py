"""Profiling: the gain of the signal, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sigprune.base.errors import BadInput, one_line
from sigprune.base.renamed import old_keywords
from sigprune.base.rng import generator
from sigprune.base.tensors import Tensors
from sigprune.values.batch import Batch, BatchLike
from sigprune.values.gains import Profile, StageGain
from sigprune.values.operator import differentiable, expect_finite, lacks_forward_mode, recording_graph, split
from sigprune.values.taps import Tap, reading_all
from sigprune.values.view import View, expect_view


@old_keywords(most_gib="max_memory_gib")
def profile(
    view: View, batch: BatchLike, *, probes: int = 8, seed: int = 0, max_memory_gib: float = 1.0
) -> Profile:
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
        max_memory_gib: bound on the memory of graphs, in GiB: where that of the batch would take more,
            examples are taken in parts, at least one at a time.

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
        done = 0
        parts: list[_Part] = []
        for part in _split(view, batch, max_memory_gib):
            directions = _Directions(len(batch), slice(done, done + len(part)), probes, seed)
            parts.append(_measured(view, part, directions))
            done += len(part)
    rows = []
    for stage, entries in parts[0].entries.items():
        ahead = _gain([part.forward.get(stage) for part in parts], parts[0].inputs, entries)
        back = _gain([part.backward.get(stage) for part in parts], parts[0].outputs, entries)
        activation = float(torch.cat([part.squares[stage] for part in parts]).mean().sqrt())
        rows.append(StageGain(stage, *ahead, *back, activation))
    return Profile(tuple(rows), parts[0].notes)


Gain = tuple[float, float]
_UNKNOWN: Gain = (math.nan, math.nan)


@dataclass(frozen=True, eq=False)
class _Part:
    """What was measured at some of the examples.

    Attributes:
        entries: stage -> numbers in one example's tensor.
        squares: stage -> mean square of each example's tensor, (examples,).
        forward: stage -> ||J v||², (probes, examples); no entry where it is not known.
        backward: stage -> ||Jᵀ u||², likewise.
        inputs: numbers in one example's input.
        outputs: numbers in one example's output.
        notes: stage -> why it is left out; ``forward`` -> why no forward gain is known.
    """

    entries: dict[str, int]
    squares: Tensors
    forward: Tensors
    backward: Tensors
    inputs: int
    outputs: int
    notes: dict[str, str]


@dataclass(frozen=True)
class _Directions:
    """Random directions, orthogonal within each example; those of an example do not depend on the parts.

    Attributes:
        examples: of the whole batch.
        part: the examples that are looked at.
        probes: per example.
        seed: of the draws.
    """

    examples: int
    part: slice
    probes: int
    seed: int

    def at(self, end: Tensor, side: str) -> list[Tensor]:
        """Directions of the shape of ``end``, of norm sqrt(numbers per example)."""
        space = end[0].numel()
        draws = torch.randn(
            self.examples,
            space,
            min(self.probes, space),
            generator=generator(self.seed, "profile", side),
            dtype=torch.float64,
        )[self.part]
        directions = torch.linalg.qr(draws).Q.mul_(math.sqrt(space)).permute(2, 0, 1)
        return [d.reshape(end.shape).to(end.device, end.dtype) for d in directions]


def _split(view: View, batch: Batch, max_memory_gib: float) -> Iterator[Batch]:
    """The batch, or parts of it whose graphs fit into the memory bound."""
    one = batch.part(0, 1)
    if one is None or len(batch) == 1:
        yield batch
        return
    with recording_graph(view.params().values()) as graph:
        _look(view, one)
    yield from split(batch, max(1, int(max_memory_gib * 2**30 / 2 / max(graph.bytes, 1))))


def _measured(view: View, batch: Batch, directions: _Directions) -> _Part:
    looked = _look(view, batch)
    backward = _backward(looked, directions)
    forward, inputs, reason = _forward(view, batch, looked, directions)
    return _Part(
        {stage: value[0].numel() for stage, value in looked.stages.items()},
        {
            stage: value.detach().double().flatten(1).square().mean(1)
            for stage, value in looked.stages.items()
        },
        forward,
        backward,
        inputs,
        looked.output[0].numel(),
        looked.notes | ({"forward": reason} if reason else {}),
    )


@dataclass(frozen=True, eq=False)
class _Looked:
    """One forward pass: the tensors of the stages that count examples, why others do not, and the output."""

    output: Tensor
    stages: Tensors
    notes: dict[str, str]


def _look(view: View, batch: Batch) -> _Looked:
    leaves = {k: x.detach().requires_grad_() if x.is_floating_point() else x for k, x in batch.inputs.items()}
    continuous = any(x.is_floating_point() for x in leaves.values())
    params = view.params() if continuous else {}  # without a gradient of their own the graph holds less
    with torch.enable_grad(), reading_all(view, view.stages()) as taps:
        output = view.forward(params, replace(batch, inputs={k: x.clone() for k, x in leaves.items()}))
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


def _backward(looked: _Looked, directions: _Directions) -> Tensors:
    """Cotangents of all stages, one backward pass per probe."""
    output, stages = looked.output, {k: t for k, t in looked.stages.items() if t.requires_grad}
    if not output.requires_grad or not stages:
        return {}
    products = []
    for probe in directions.at(output, "output"):
        grads = torch.autograd.grad(
            output, list(stages.values()), probe, retain_graph=True, allow_unused=True
        )
        products.append(_squares(dict(zip(stages, grads, strict=True)), len(output)))
    return _stacked(products)


def _forward(view: View, batch: Batch, looked: _Looked, directions: _Directions) -> tuple[Tensors, int, str]:
    """Tangents of all stages, one forward-mode pass per probe; the input's size; or why there are none."""
    name = next((k for k, v in batch.inputs.items() if v.is_floating_point()), None)
    if name is None:
        return {}, 0, f"{view.architecture} has no continuous input: only backward gains are known"
    point = batch.inputs[name].detach().contiguous()  # images of one channel may repeat it

    def run(x: Tensor) -> Tensors:
        with reading_all(view, tuple(looked.stages)) as taps:
            view.forward({}, replace(batch, inputs={**batch.inputs, name: x.clone()}))
        return _read(taps, len(batch))[0]

    products = []
    try:
        for probe in directions.at(point, "input"):
            products.append(_squares(torch.func.jvp(run, (point,), (probe,))[1], len(batch)))
    except (RuntimeError, NotImplementedError) as error:
        if not lacks_forward_mode(error):
            raise
        return {}, 0, f"no forward-mode derivative, only backward gains are known: {one_line(error)}"
    return _stacked(products), point[0].numel(), ""


def _squares(products: Mapping[str, Tensor | None], examples: int) -> Tensors:
    """Squared norms, (examples,) each, on the CPU; no dependence is zero."""
    return {
        stage: torch.zeros(examples, dtype=torch.float64)
        if t is None
        else t.detach().double().flatten(1).square().sum(1).cpu()
        for stage, t in products.items()
    }


def _stacked(products: list[Tensors]) -> Tensors:
    return {stage: torch.stack([product[stage] for product in products]) for stage in products[0]}


def _gain(parts: list[Tensor | None], space: int, entries: int) -> Gain:
    """From (probes, examples) squared norms of each part; orthogonal probes are as draws without replacement.

    Args:
        parts: of the batch; None where nothing is known.
        space: numbers in one example of the end where the probes live.
        entries: numbers in one example of the stage.
    """
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return _UNKNOWN
    squares = torch.cat(known, 1)
    probes, examples = squares.shape
    count = min(space, entries)
    gain = math.sqrt(float(squares.mean()) / count)
    if probes == space or gain == 0:
        return gain, 0.0
    if probes == 1:
        return gain, math.nan
    variance = float(squares.var(0).sum()) / (probes * examples**2) * (1 - probes / space)
    return gain, math.sqrt(variance) / (2 * gain * count)
