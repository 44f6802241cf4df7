"""Objectives prediction by prediction, straight from their definitions, in float64 and plain Python."""

from __future__ import annotations

import math

from torch import Tensor


def softmax(values: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp((v - max(values)) / temperature) for v in values]
    return [p / sum(powers) for p in powers]


def cross_entropy(target: list[float], values: list[float]) -> float:
    return -sum(t * math.log(p) for t, p in zip(target, softmax(values), strict=True))


def one_hot(label: int, classes: int) -> list[float]:
    return [float(c == label) for c in range(classes)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def uniform(rows: list[list[float]]) -> float:
    return mean([cross_entropy([1 / len(z)] * len(z), z) for z in rows])


def prediction_softmax(rows: list[list[float]]) -> float:
    return mean([cross_entropy(softmax(z), z) for z in rows])


def prediction_raw(rows: list[list[float]]) -> float:
    return mean([cross_entropy(z, z) / len(z) for z in rows])


def self_distillation(rows: list[list[float]], dense: list[list[float]], temperature: float) -> float:
    return mean([cross_entropy(softmax(d, temperature), z) for z, d in zip(rows, dense, strict=True)])


def labelled(rows: list[list[float]], labels: list[int]) -> float:
    """Labels below zero are skipped."""
    pairs = zip(rows, labels, strict=True)
    return mean([cross_entropy(one_hot(y, len(z)), z) for z, y in pairs if y >= 0])


def next_token(output: Tensor, ids: Tensor, attended: Tensor) -> float:
    """Output (examples, tokens, vocabulary), ids and attended (examples, tokens)."""
    terms = []
    for example, (row, mask) in enumerate(zip(ids.tolist(), attended.tolist(), strict=True)):
        for place in range(len(row) - 1):
            if mask[place] and mask[place + 1]:
                z = output[example, place].tolist()
                terms.append(cross_entropy(one_hot(row[place + 1], len(z)), z))
    return mean(terms)
