"""Cross-entropy with tokens that were hidden from the network: the loss of masked language models."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from sigprune.base.errors import BadInput, DataError
from sigprune.families.objectives._shared import (
    IGNORED,
    attention_mask,
    cross_entropy,
    expect_vocabulary,
    known,
    prepared,
    token_ids,
)
from sigprune.values.batch import Batch
from sigprune.values.problem import Setting

NEEDS: Literal["tokens"] = "tokens"
PAPER = "Devlin et al. 2019 (BERT), arXiv 1810.04805, section 3.1"


def prepare(
    batch: Batch,
    setting: Setting,
    *,
    mask_token: int,
    fraction: float = 0.15,
    special: list[int] | None = None,
) -> Batch:
    """Replace round(fraction · candidates) tokens, at least one, by ``mask_token``; keep their ids as target.

    Candidates are all tokens but padding (``attention_mask`` 0), ``mask_token`` itself and the ``special``
    ids (those of [CLS] and [SEP], say). Every chosen token becomes the mask token: BERT leaves or swaps a
    fifth of them for the sake of fine-tuning. The choice is the same in every round.

    Raises:
        BadInput: a fraction outside (0, 1].
        DataError: no token ids, or not one candidate.
    """
    if not 0 < fraction <= 1:
        raise BadInput(f"the objective 'masked_token': expected 0 < fraction <= 1, got {fraction}")
    name, ids = token_ids(batch, "masked_token")
    hidden = torch.tensor([mask_token, *(special or [])], dtype=ids.dtype, device=ids.device)
    candidates = ~torch.isin(ids, hidden)
    attended = attention_mask(batch)
    if attended is not None:
        if attended.shape != ids.shape:
            shapes = f"{tuple(attended.shape)} for ids {tuple(ids.shape)}"
            raise DataError(f"the objective 'masked_token': the attention mask has shape {shapes}")
        candidates &= attended != 0
    places = candidates.reshape(-1).nonzero().reshape(-1)
    if len(places) == 0:
        raise DataError("the objective 'masked_token': all tokens are padding or special, none can be hidden")
    count = max(1, round(fraction * len(places)))
    chosen = torch.randperm(len(places), generator=setting.generator)[:count].to(places.device)
    mask = torch.zeros_like(candidates).reshape(-1).index_fill(0, places[chosen], True).reshape(ids.shape)
    inputs = {**batch.inputs, name: ids.masked_fill(mask, mask_token)}
    return replace(batch, inputs=inputs, target=ids.masked_fill(~mask, IGNORED))


def objective(
    output: Tensor,
    batch: Batch,
    *,
    mask_token: int,  # noqa: ARG001 - read by prepare
    fraction: float = 0.15,  # noqa: ARG001 - read by prepare
    special: list[int] | None = None,  # noqa: ARG001 - read by prepare
) -> Tensor:
    """Mean of -log softmax(output) at the hidden tokens' own ids, over all hidden tokens of the batch.

    Args:
        output: (examples, tokens, vocabulary).
        batch: as ``prepare`` left it.
        mask_token: the id that hides a token: ``tokenizer.mask_token_id``.
        fraction: share of the tokens that are hidden.
        special: ids that are never hidden: ``tokenizer.all_special_ids``; None: only ``mask_token``.

    Raises:
        DataError: an output that is not (examples, tokens, vocabulary), ids that its vocabulary does not
            have, or a batch that was not prepared.
    """
    target = prepared(batch, "masked_token")
    expect_vocabulary(output, target, "masked_token", "masked-lm")
    return cross_entropy(output.flatten(0, 1), target.reshape(-1), "masked_token")


def predictions(_output: Tensor, batch: Batch, **_options: object) -> int:
    """Tokens that are hidden."""
    return known(prepared(batch, "masked_token"))
