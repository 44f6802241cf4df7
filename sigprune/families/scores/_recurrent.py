"""Recurrent layers of torch, layer by layer, so that the inputs of each weight are seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from sigprune.families.scores._uses import Function, Uses, run

LAYERED = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def layered(uses: Uses, func: Function, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
    """Sequences (time, examples, in), or examples first: each layer and direction is run on its own.

    Raises:
        UnsupportedModel: packed sequences, or a projected state: its inputs are not among the outputs.
    """
    if kwargs or not isinstance(args[3], bool):
        uses.unsupported(_first_watched(uses, args), "meets packed sequences")
    flat, biased = cast("list[Tensor]", args[2]), args[3]
    layers, directions, batch_first = cast("int", args[4]), 1 + bool(args[7]), bool(args[8])
    each = 4 if biased else 2
    if len(flat) != layers * directions * each:
        uses.unsupported(_first_watched(uses, args), "is part of a recurrence with a projected state")
    inputs, time = uses.activation(args[0]), int(batch_first)
    starts = cast("Sequence[Tensor]", args[1] if isinstance(args[1], list | tuple) else (args[1],))
    ends: list[list[Tensor]] = []
    for layer in range(layers):
        outs: list[Tensor] = []
        for index in range(layer * directions, (layer + 1) * directions):
            backwards = index > layer * directions
            given = inputs.flip(time) if backwards else inputs
            state = [part[index : index + 1] for part in starts]
            weights = flat[index * each : (index + 1) * each]
            first = tuple(state) if isinstance(args[1], list | tuple) else state[0]
            done = run(func, (given, first, weights, biased, 1, 0.0, False, False, batch_first))
            out, *end = cast("Sequence[Tensor]", done)
            _observe(
                uses,
                given,
                torch.cat([_first(state[0], time), out.narrow(time, 0, out.shape[time] - 1)], time),
                weights,
            )
            outs.append(out.flip(time) if backwards else out)
            ends.append(end)
        inputs = torch.cat(outs, -1)
    return inputs, *(torch.cat(parts) for parts in zip(*ends, strict=True))


def _first(state: Tensor, time: int) -> Tensor:
    """A state (1, examples, hidden) as the first step of a sequence."""
    return state.transpose(0, time)


def _observe(uses: Uses, inputs: Tensor, before: Tensor, weights: Sequence[Tensor]) -> None:
    """The weight of the inputs meets them, that of the state meets the state before each step."""
    by_input, by_state, *biases = weights
    uses.add_inputs(inputs, by_input)
    uses.add_inputs(before, by_state)
    for bias in biases:
        uses.add_ones(bias, inputs.numel() / inputs.shape[-1])


def _first_watched(uses: Uses, args: Sequence[object]) -> Tensor:
    flat = [t for part in args if isinstance(part, list | tuple) for t in part if isinstance(t, Tensor)]
    return next(t for t in (*flat, *(a for a in args if isinstance(a, Tensor))) if uses.owns(t))
