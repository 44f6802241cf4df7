"""Measuring the singular values of an operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType

from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sigprune.base.progress import ProgressCallback, ignore
from sigprune.base.registry import MemberSpec
from sigprune.base.renamed import old_keywords
from sigprune.base.rng import generator
from sigprune.families.spectra import spectra
from sigprune.values.batch import BatchLike
from sigprune.values.operator import Operator, differentiable, recording_graph
from sigprune.values.spectrum import Spectrum
from sigprune.values.view import View


@old_keywords(report="on_progress")
def measure(
    operator: Operator,
    method: str | MemberSpec | ModuleType = "auto",
    *,
    seed: int = 0,
    on_progress: ProgressCallback = ignore,
) -> Spectrum:
    """Singular values of an operator, found or estimated.

    Args:
        operator: for example ``jacobian(view, batch)``.
        method: a member of the spectra family; ``auto`` is exact where that is affordable, else an estimate
            from few products, and says so in ``Spectrum.method``.
        seed: for methods that draw probes.
        on_progress: called with (products taken, products of an exact spectrum); with both equal at the end.

    Returns:
        Spectrum; an exact one has all values, shape (examples, values per example). What an estimate does not
        tell is NaN in its summary.

    Raises:
        BadInput: more products or memory than the method's options allow.

    Example:
        >>> import torch
        >>> from sigprune import describe, jacobian, measure, reinit_
        >>> view = describe(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)))
        >>> _ = reinit_(view, "orthogonal")
        >>> round(measure(jacobian(view, torch.randn(2, 8))).summary().mean, 5)
        1.0
    """
    choice = spectra.choose(method)
    spectrum = choice.member.measure(
        _counted(operator, on_progress), generator(seed, "measure"), **choice.options
    )
    on_progress(min(operator.shape), min(operator.shape))
    return spectrum


def _counted(operator: Operator, on_progress: ProgressCallback) -> Operator:
    """The same operator; it tells how many products were taken, of those that an exact spectrum takes."""
    done, total = 0, min(operator.shape)

    def counting(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def counted(vectors: Tensor) -> Tensor:
            nonlocal done
            products = product(vectors)
            done = min(done + len(vectors), total)
            on_progress(done, total)
            return products

        return counted

    return replace(operator, matmat=counting(operator.matmat), rmatmat=counting(operator.rmatmat))


_OPERATIONS, _BYTES = 5e10, 1e9
"""A second, as it is counted here: floating-point operations, and bytes of activations written and read. Near
what two cores of a server do; fixed, so that every machine makes the same choice."""

_FORWARD_MODE = 4.0
"""A forward-mode pass over a backward pass, in time (measured on EfficientNet-Lite0 at 240 px)."""

_PROFILE = 3 + 2 * (1 + _FORWARD_MODE)
"""What looking at a network costs beside its spectrum, in backward passes: a profile of two probes."""

_FEWEST_STEPS = 4


@dataclass(frozen=True)
class Effort:
    """What a measurement within a time bound is made of.

    Attributes:
        examples: at how many it is taken.
        method: with fewer Lanczos steps where even one example is too dear.
        note: what was left out and why; empty if nothing was.
    """

    examples: int
    method: MemberSpec
    note: str = ""


def affordable(view: View, batch: BatchLike, method: MemberSpec, *, seconds: float | None) -> Effort:
    """How much of a measurement fits into a time bound, which is counted, not measured.

    A backward pass counts as its operations (those of a forward pass) / 5e10 + the bytes that its graph holds
    / 1e9, in seconds. Examples are left out first, then, at a single one, steps of Lanczos' method. At least
    one example and four steps are left. Cost: one forward pass of one example.

    Args:
        view: the network.
        batch: the examples that are wanted.
        method: a resolved member of the spectra family.
        seconds: the bound; None: none.
    """
    batch = view.read(batch)
    one = batch.part(0, 1)
    if seconds is None or one is None:
        return Effort(len(batch), method)
    if view.embed is not None:
        one = view.embed(one)
    with (
        differentiable(),
        recording_graph(view.params().values()) as graph,
        FlopCounterMode(display=False) as counter,
    ):
        inputs = {
            k: x.detach().requires_grad_() if x.is_floating_point() else x for k, x in one.inputs.items()
        }
        output = view.forward(view.params(), replace(one, inputs={k: x.clone() for k, x in inputs.items()}))
    pass_seconds = counter.get_total_flops() / _OPERATIONS + graph.bytes / _BYTES
    size = max((x[0].numel() for x in inputs.values() if x.is_floating_point()), default=1)
    values = min(output[0].numel(), size)
    passes = _passes(method, values)
    each = pass_seconds * (passes + _PROFILE)
    if each * len(batch) <= seconds:
        return Effort(len(batch), method)
    over = f"all would take {each * len(batch):.3g} nominal seconds, over measure.max_seconds={seconds:g}"
    count = max(1, int(seconds / each))
    if count > 1 or each <= seconds or not _takes_steps(method, values):
        return Effort(count, method, f"{count} of {len(batch)} examples: {over}")
    room = max(seconds / pass_seconds - _PROFILE, 0.0) / (1 + _FORWARD_MODE)
    steps = min(max(_FEWEST_STEPS, int(room)), int(str(method.options["steps"])))
    fewer = MemberSpec(method.name, {**method.options, "steps": steps})
    return Effort(1, fewer, f"{steps} steps at 1 of {len(batch)} examples: {over}")


def _takes_steps(method: MemberSpec, values: int) -> bool:
    """Whether a method runs Lanczos' for so many singular values; ``auto`` is exact where they are few."""
    few = method.name == "auto" and values <= int(str(method.options["max_products"]))
    return "steps" in method.options and not few


def _passes(method: MemberSpec, values: int) -> float:
    """Backward passes of a spectrum of so many singular values per example; forward-mode ones count more."""
    options = {key: value for key, value in method.options.items() if isinstance(value, int | float)}
    if method.name == "moments":
        return min(options.get("probes", values), values)
    if not _takes_steps(method, values):
        return values
    return options["steps"] * options.get("probes", 1) * (1 + _FORWARD_MODE)
