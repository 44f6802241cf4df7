"""Cross-entropy with random labels: what is left of a score when the labels say nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from sigprune.base.rng import generator
from sigprune.families.objectives._shared import counted, cross_entropy, prepared, select
from sigprune.values.batch import Batch
from sigprune.values.problem import Setting

NEEDS: Literal["inputs"] = "inputs"
PAPER = "Su et al. 2020, arXiv 2009.11094 (corrupted labels)"


def prepare(batch: Batch, setting: Setting) -> Batch:
    """A 62-bit seed for every example, int64 (examples,), from the stream of this batch's number.

    The labels that grow out of it depend on the seed of the pruning, the number of the batch and the place in
    it, not on what the batch holds: they are the same in every round if the batches come in the same order.
    """
    return replace(batch, target=torch.randint(2**62, (len(batch),), generator=setting.generator))


def objective(output: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy with labels drawn uniformly for each example (or token without padding).

    Raises:
        DataError: the output has another shape, its padding cannot be told, or the batch was not prepared.
    """
    chosen = counted(output, batch, "random_labels")
    size, classes = output.shape[1:-1], output.shape[-1]
    drawn = [
        torch.randint(classes, size, generator=generator(seed, "random_labels"))
        for seed in prepared(batch, "random_labels").tolist()
    ]
    labels = torch.stack(drawn).to(output.device).unsqueeze(-1)
    return cross_entropy(select(output, chosen), select(labels, chosen).reshape(-1), "random_labels")
