"""Naive reachability: booleans carried through every connection of a network, one at a time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

Bools = np.ndarray


@dataclass
class Layer:
    """A convolution (or pooling, if nothing of it is removed): kept entries (out, in, height, width)."""

    keep: Bools
    stride: int = 1
    padding: int = 0
    groups: int = 1

    def connections(self, inputs: tuple[int, ...]):
        """(entry, input place, output place), each a tuple of indices."""
        out, fan, kh, kw = self.keep.shape
        _, height, width = inputs
        rows = (height + 2 * self.padding - kh) // self.stride + 1
        columns = (width + 2 * self.padding - kw) // self.stride + 1
        for o, i, a, b in itertools.product(range(out), range(fan), range(kh), range(kw)):
            for r, c in itertools.product(range(rows), range(columns)):
                y, x = r * self.stride + a - self.padding, c * self.stride + b - self.padding
                if 0 <= y < height and 0 <= x < width:
                    yield (o, i, a, b), (o // (out // self.groups) * fan + i, y, x), (o, r, c)

    def forward(self, reached: Bools) -> Bools:
        out, _, kh, kw = self.keep.shape
        _, height, width = reached.shape
        shape = ((n + 2 * self.padding - k) // self.stride + 1 for n, k in ((height, kh), (width, kw)))
        found = np.zeros((out, *shape), dtype=bool)
        for entry, source, target in self.connections(reached.shape):
            found[target] |= self.keep[entry] and reached[source]
        return found

    def backward(self, reaching: Bools, inputs: tuple[int, ...]) -> Bools:
        found = np.zeros(inputs, dtype=bool)
        for entry, source, target in self.connections(inputs):
            found[source] |= self.keep[entry] and reaching[target]
        return found

    def entries(self, reached: Bools, reaching: Bools) -> Bools:
        found = np.zeros(self.keep.shape, dtype=bool)
        for entry, source, target in self.connections(reached.shape):
            found[entry] |= self.keep[entry] and reached[source] and reaching[target]
        return found


def chain(layers: list[Layer], inputs: tuple[int, ...]) -> list[Bools]:
    """Effective entries of layers one after the other; every input is there, every output counts."""
    reached = [np.ones(inputs, dtype=bool)]
    for layer in layers:
        reached.append(layer.forward(reached[-1]))
    reaching = np.ones(reached[-1].shape, dtype=bool)
    found = []
    for layer, source in zip(layers[::-1], reached[-2::-1], strict=True):
        found.append(layer.entries(source, reaching))
        reaching = layer.backward(reaching, source.shape)
    return found[::-1]


def residual(stem: Layer, branch: list[Layer], shortcut: Layer, rest: list[Layer], inputs: tuple[int, ...]):
    """Effective entries of stem, branch layers, shortcut and what follows their sum, in this order."""
    start = stem.forward(np.ones(inputs, dtype=bool))
    inside = [start]
    for layer in branch:
        inside.append(layer.forward(inside[-1]))
    after = [inside[-1] | shortcut.forward(start)]
    for layer in rest:
        after.append(layer.forward(after[-1]))
    reaching = np.ones(after[-1].shape, dtype=bool)
    tail = []
    for layer, source in zip(rest[::-1], after[-2::-1], strict=True):
        tail.append(layer.entries(source, reaching))
        reaching = layer.backward(reaching, source.shape)
    side = shortcut.entries(start, reaching)
    to_start = shortcut.backward(reaching, start.shape)
    middle = []
    for layer, source in zip(branch[::-1], inside[-2::-1], strict=True):
        middle.append(layer.entries(source, reaching))
        reaching = layer.backward(reaching, source.shape)
    first = stem.entries(np.ones(inputs, dtype=bool), to_start | reaching)
    return [first, *middle[::-1], side, *tail[::-1]]
