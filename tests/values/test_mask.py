"""Masks: explicit, exact, comparable."""

from __future__ import annotations

import math

import pytest
import torch

from sigprune.base.errors import BadInput, MaskViolated
from sigprune.values.mask import Mask, pack_bits

KEEP = {"a": torch.tensor([[True, False, True], [False, False, True]]), "b": torch.tensor([True])}


def test_counts_and_sparsity():
    mask = Mask(KEEP)
    assert (mask.kept, mask.total) == (4, 7)
    assert mask.sparsity == pytest.approx(3 / 7)
    assert mask.counts() == {"a": (3, 6), "b": (1, 1)}
    assert Mask.dense({"a": (2, 2)}).sparsity == 0.0


def test_only_booleans():
    with pytest.raises(BadInput, match=r"expected a boolean tensor, got torch\.float32"):
        Mask({"a": torch.ones(2)})


def test_masks_cannot_be_changed_by_key():
    with pytest.raises(TypeError):
        Mask(KEEP).keep["a"] = torch.ones(1, dtype=torch.bool)


def test_apply_gives_positive_zeros_and_keeps_nan_visible():
    tensors = {"a": torch.tensor([[-1.0, -2.0, math.nan], [math.inf, math.nan, 3.0]]), "b": torch.zeros(1)}
    Mask(KEEP).apply_(tensors)
    removed = tensors["a"][~KEEP["a"]]
    assert not removed.any()
    assert not removed.signbit().any(), "masked entries are +0.0"
    assert tensors["a"].isnan().tolist() == [[False, False, True], [False, False, False]]


def test_check_names_the_weight():
    with pytest.raises(MaskViolated, match=r"a: 2 entries that the mask removed are not zero"):
        Mask(KEEP).check({"a": torch.tensor([[1.0, 5.0, 1.0], [0.0, math.nan, 1.0]]), "b": torch.zeros(1)})
    with pytest.raises(BadInput, match=r"mask of a: expected shape \(2, 3\), got \(3, 2\)"):
        Mask(KEEP).check({"a": torch.zeros(3, 2), "b": torch.zeros(1)})
    with pytest.raises(BadInput, match="no such weight"):
        Mask(KEEP).check({"a": torch.zeros(2, 3)})


def test_equality_digest_and_overlap():
    mask, other = Mask(KEEP), Mask({k: v.clone() for k, v in KEEP.items()})
    assert mask == other
    assert hash(mask) == hash(other)
    flipped = Mask({**KEEP, "b": torch.tensor([False])})
    assert mask != flipped
    assert mask.digest() != flipped.digest()
    assert mask.digest() != Mask({"a": KEEP["a"].reshape(3, 2), "b": KEEP["b"]}).digest()
    assert mask.jaccard(flipped) == pytest.approx(3 / 4)
    assert (mask & flipped) == flipped
    with pytest.raises(BadInput, match="b is in only one of them"):
        mask & Mask({"a": KEEP["a"]})


def test_bit_order():
    keep = torch.tensor([True, False, False, False, False, False, False, False, True, True])
    assert pack_bits(keep).tolist() == [1, 3]


@pytest.mark.parametrize(
    "keep",
    [
        {"a": torch.zeros(8, dtype=torch.bool)},  # would be broadcast
        {"b": torch.zeros(2, dtype=torch.bool), "c": torch.ones(1, dtype=torch.bool)},
    ],
    ids=["shape", "name"],
)
def test_a_mask_of_another_network_changes_nothing(keep):
    tensors = {"a": torch.ones(4, 8), "b": torch.ones(2)}
    with pytest.raises(BadInput, match=r"mask of [ac]: expected shape"):
        Mask(keep).apply_(tensors)
    assert all(bool(t.all()) for t in tensors.values())
    with pytest.raises(BadInput, match="only one of them"):
        Mask(keep).jaccard(Mask({}))


def test_overlap_weight_by_weight():
    """|A and B| / |A or B|; two empty masks are equal."""
    first = Mask({**KEEP, "empty": torch.zeros(3, dtype=torch.bool)})
    other = Mask({
        "a": torch.tensor([[True, True, False], [False, False, True]]),
        "b": torch.tensor([False]),
        "empty": torch.zeros(3, dtype=torch.bool),
    })
    assert first.overlap(other) == {"a": 2 / 4, "b": 0.0, "empty": 1.0}
    assert first.jaccard(other) == pytest.approx(2 / 5)
    assert other.overlap(first) == first.overlap(other)
    assert set(first.overlap(first).values()) == {1.0}
    assert Mask({}).overlap(Mask({})) == {}


def test_overlap_of_random_masks():
    """Density d on both sides: d / (2 - d)."""
    draw = torch.Generator().manual_seed(0)
    pair = [Mask({"a": torch.rand(100, 100, generator=draw) < 0.2}) for _ in range(2)]
    assert pair[0].jaccard(pair[1]) == pytest.approx(0.2 / 1.8, rel=0.1)


def test_masks_of_other_shapes_do_not_overlap():
    with pytest.raises(BadInput, match=r"mask of a: expected shape \(3, 2\), got \(2, 3\)"):
        Mask(KEEP).overlap(Mask({**KEEP, "a": KEEP["a"].T}))
    with pytest.raises(BadInput, match="only one of them"):
        Mask(KEEP).overlap(Mask({}))
