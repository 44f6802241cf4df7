"""What is left of images that are shrunk: R² of the image enlarged again."""

from __future__ import annotations

import pytest
import torch

from sigprune.base.rng import generator
from sigprune.families.datasets import datasets
from sigprune.training.image_detail import detail_finding, detail_kept

DIGITS = datasets.choose("digits").member.load().train[0]


def test_nothing_is_lost_at_the_own_size_and_above():
    for size in ((8, 8), (9, 12), (224, 224)):
        assert detail_kept(DIGITS, size) == 1.0
        assert detail_finding(DIGITS, size) == []


def test_images_of_one_grey_each_keep_everything_and_stripes_nothing():
    greys = torch.randn(16, 3, 1, 1, generator=generator(0, "test", "greys")).expand(-1, -1, 8, 8)
    assert detail_kept(greys, (1, 1)) == pytest.approx(1, abs=1e-5)
    stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(2, 1, 8, 8)
    assert detail_kept(stripes, (8, 1)) == pytest.approx(0, abs=1e-5)
    assert detail_kept(stripes, (1, 8)) == pytest.approx(1, abs=1e-5)
    assert detail_kept(torch.zeros(2, 1, 8, 8), (1, 1)) == 1.0


def test_the_share_grows_with_the_size():
    shares = [detail_kept(DIGITS, (side, side)) for side in range(1, 9)]
    assert shares == sorted(shares)
    assert shares[1] < 0.1 < shares[2]


@pytest.mark.parametrize("size", [(1, 1), (2, 2)])
def test_little_left_is_a_warning_that_names_both_sizes(size):
    (finding,) = detail_finding(DIGITS, size)
    assert not finding.ok
    assert not finding.required
    said = f"images of 8 x 8 pixels shrunk to {size[0]} x {size[1]}"
    assert said in str(finding)
    assert "data.size" in str(finding)
