"""Cross-entropy of every token with the next one: the loss of causal language models."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from sigprune.base.errors import DataError
from sigprune.families.objectives._shared import (
    IGNORED,
    counted,
    cross_entropy,
    expect_vocabulary,
    known,
    token_ids,
)
from sigprune.values.batch import Batch

NEEDS: Literal["tokens"] = "tokens"
PAPER = "Radford et al. 2019 (GPT-2), equation 1"


def objective(output: Tensor, batch: Batch) -> Tensor:
    """Mean of -log softmax(output[:, t])[ids[:, t + 1]] over all pairs of tokens of which none is padding.

    The targets are the input ids themselves (a decoder's where there is one); labels are not read. Which
    tokens are padding says ``attention_mask``.

    Raises:
        DataError: no token ids, an output that is not (examples, tokens, vocabulary), ids that its vocabulary
            does not have, or no two tokens that follow each other.
    """
    targets = _targets(output, batch)
    if targets.numel() == 0:
        raise DataError(
            "the objective 'next_token' needs two tokens per example, got an output of shape "
            f"{tuple(output.shape)}"
        )
    return cross_entropy(output[:, :-1].flatten(0, 1), targets.reshape(-1), "next_token")


def predictions(output: Tensor, batch: Batch) -> int:
    """Pairs of tokens of which none is padding."""
    return known(_targets(output, batch))


def _targets(output: Tensor, batch: Batch) -> Tensor:
    """The id that follows each token but the last, (examples, tokens - 1); -100 where one is padding."""
    _, ids = token_ids(batch, "next_token")
    expect_vocabulary(output, ids, "next_token", "causal-lm")
    chosen = counted(output, batch, "next_token")
    targets = ids[:, 1:]
    if chosen is None:
        return targets
    return targets.masked_fill(~(chosen[:, 1:] & chosen[:, :-1]), IGNORED)
