"""Cross-entropy with the dense network's own softmax, sharpened: keep what the network says already."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import Tensor
from torch.nn import functional

from sigprune.base.errors import BadInput
from sigprune.base.registry import Positive
from sigprune.families.objectives._shared import counted, prepared, select
from sigprune.values.batch import Batch
from sigprune.values.problem import Setting

NEEDS: Literal["inputs"] = "inputs"
PAPER = "Hinton et al. 2015, arXiv 1503.02531 (the dense network as its own teacher; the definition is ours)"


def prepare(batch: Batch, setting: Setting, *, temperature: Positive = 0.5) -> Batch:
    """The dense network's output for this batch, detached: one forward pass, kept for one batch only.

    Raises:
        BadInput: the temperature is 1.
    """
    if temperature == 1.0:
        raise BadInput(
            "the objective 'self_distillation' expects a temperature other than 1: at 1 the dense network "
            "agrees with itself and every gradient of the first round is zero; take 0.5 or 2"
        )
    return replace(batch, target=setting.dense(batch))


def objective(output: Tensor, batch: Batch, *, temperature: Positive = 0.5) -> Tensor:
    """Mean over examples (or tokens without padding) of -Σ softmax(z_dense / temperature) · log softmax(z).

    Below 1 the target is sharper than the dense network's softmax, above 1 softer. The gradient in z is
    softmax(z) - target: at temperature 1 it is zero before anything is removed, which ``prepare`` refuses.

    Raises:
        DataError: the output has another shape, its padding cannot be told, or the batch was not prepared.
    """
    chosen = counted(output, batch, "self_distillation")
    dense = select(prepared(batch, "self_distillation"), chosen).to(output.dtype)
    target = functional.softmax(dense / temperature, dim=-1)
    return -(target * functional.log_softmax(select(output, chosen), dim=-1)).sum(-1).mean()
