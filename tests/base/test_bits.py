"""Zeroing sees bits, not numbers."""

from __future__ import annotations

import pytest
import torch

from sigprune.base.bits import as_integers, zeroed


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_removed_entries_are_plus_zero_and_the_others_keep_every_bit(dtype):
    values = torch.tensor([torch.nan, -torch.inf, -0.0, -2.5, 1.0], dtype=dtype)
    as_integers(values)[0] += 1  # NaN with a payload
    none, every = torch.zeros(5, dtype=torch.bool), torch.ones(5, dtype=torch.bool)
    assert not as_integers(zeroed(values, none)).any()
    assert torch.equal(as_integers(zeroed(values, every)), as_integers(values))
    mixed = torch.tensor([True, False, True, False, True])
    expected = values.masked_fill(~mixed, 0.0)
    assert torch.equal(as_integers(zeroed(values, mixed)), as_integers(expected))


def test_it_is_a_copy_of_any_layout():
    values = torch.arange(1.0, 25.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last)
    keep = values.remainder(2) == 0
    before = values.clone()
    assert torch.equal(zeroed(values, keep), values * keep)
    assert torch.equal(values, before)
