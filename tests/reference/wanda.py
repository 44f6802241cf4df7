"""What each entry of a layer is multiplied with, place by place, in float64: sums of squares."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional


def linear(inputs: Tensor, outputs: int) -> Tensor:
    """Inputs (..., in) -> (outputs, in)."""
    rows = inputs.double().reshape(-1, inputs.shape[-1])
    return torch.stack([torch.stack([(row**2).sum() for row in rows.T])] * outputs)


def convolution(
    x: Tensor,
    shape: tuple[int, ...],
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """Inputs (examples, in, *size), a kernel (out, in / groups, *taps): each tap sees a strided slice."""
    axes = x.dim() - 2
    padded = functional.pad(x.double(), [padding] * (2 * axes))
    sums = torch.zeros(shape, dtype=torch.float64)
    for out, inner, *taps in itertools.product(*(range(n) for n in shape)):
        channel = (out // (shape[0] // groups)) * shape[1] + inner
        seen = padded[:, channel]
        for axis, (tap, width) in enumerate(zip(taps, shape[2:], strict=True)):
            steps = (padded.shape[2 + axis] - dilation * (width - 1) - 1) // stride + 1
            places = [tap * dilation + stride * step for step in range(steps)]
            seen = seen[(slice(None),) * (1 + axis) + (places,)]
        sums[(out, inner, *taps)] = (seen**2).sum()
    return sums


def transposed(
    x: Tensor, shape: tuple[int, ...], size: tuple[int, ...], *, stride: int, padding: int, dilation: int
) -> Tensor:
    """Inputs (examples, in, *), a kernel (in, out / groups, *taps): places count that land in ``size``."""
    sums = torch.zeros(shape, dtype=torch.float64)
    for inner, out, *taps in itertools.product(*(range(n) for n in shape)):
        for place in itertools.product(*(range(n) for n in x.shape[2:])):
            lands = [p * stride + t * dilation - padding for p, t in zip(place, taps, strict=True)]
            if all(0 <= at < n for at, n in zip(lands, size, strict=True)):
                sums[(inner, out, *taps)] += (x[(slice(None), inner, *place)].double() ** 2).sum()
    return sums


def lstm(x: Tensor, weights: dict[str, Tensor], suffix: str, reverse: bool = False) -> tuple[Tensor, Tensor]:
    """One layer on (time, examples, in): the state before each step, and the state after it."""
    by_input, by_state = (weights[f"weight_{kind}_{suffix}"].double() for kind in ("ih", "hh"))
    shift = (weights[f"bias_ih_{suffix}"] + weights[f"bias_hh_{suffix}"]).double()
    hidden = memory = torch.zeros(x.shape[1], by_state.shape[1], dtype=torch.float64)
    before, after = [], []
    steps = reversed(range(len(x))) if reverse else range(len(x))
    for step in steps:
        before.append(hidden)
        i, f, g, o = (x[step].double() @ by_input.T + hidden @ by_state.T + shift).chunk(4, 1)
        memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * memory.tanh()
        after.append(hidden)
    return torch.stack(before), torch.stack(after[::-1] if reverse else after)


def experts(x: Tensor, chosen: Tensor, gate_up: Tensor, down: Tensor, act: object) -> tuple[Tensor, Tensor]:
    """Rows (tokens, in), chosen experts (tokens, k): sums for (experts, 2·mid, in) and (experts, in, mid)."""
    first, second = torch.zeros_like(gate_up.double()), torch.zeros_like(down.double())
    for row, which in zip(x.double(), chosen.tolist(), strict=True):
        for expert in which:
            first[expert] += row[None, :] ** 2
            gate, up = (gate_up[expert].double() @ row).chunk(2)
            second[expert] += ((act(gate) * up) ** 2)[None, :]
    return first, second
