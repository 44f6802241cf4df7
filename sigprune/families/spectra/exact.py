"""All singular values, from the rows of the map (one backward pass per output)."""

from __future__ import annotations

import torch
from torch import Tensor

from sigprune.base.errors import BadInput
from sigprune.values.operator import Operator
from sigprune.values.spectrum import Spectrum

PAPER = "Lee et al. 2020, arXiv 1906.06307, section 3"


def measure(
    operator: Operator, generator: torch.Generator, *, rows_at_once: int = 16, most_rows: int = 4096
) -> Spectrum:
    """min(outputs, inputs) float64 singular values per example.

    ``rows_at_once`` backward passes are batched; 1 batches none, for operations that cannot be. The values
    come from the triangular factor of each example's transposed matrix, which keeps small ones accurate.

    Raises:
        BadInput: the map has more than ``most_rows`` outputs.
    """
    del generator  # nothing is random here
    outputs, inputs = operator.shape
    if outputs > most_rows:
        raise BadInput(
            f"an exact spectrum takes {outputs} backward passes, over the limit most_rows={most_rows}"
        )
    rows = [operator.rmatmat(u) for u in _unit_vectors(operator, rows_at_once)]
    matrices = torch.cat(rows).transpose(0, 1).to(torch.float64)
    if outputs < inputs:
        matrices = torch.linalg.qr(matrices.transpose(1, 2), mode="r").R
    return Spectrum(torch.linalg.svdvals(matrices).cpu())


def _unit_vectors(operator: Operator, rows_at_once: int) -> list[Tensor]:
    eye = torch.eye(operator.shape[0], dtype=operator.dtype, device=operator.device)
    return [part[:, None].expand(-1, operator.examples, -1) for part in eye.split(rows_at_once)]
