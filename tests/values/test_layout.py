"""Layouts: blocks are views that cover every entry exactly once."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from sigprune.base.rng import generator
from sigprune.values.layout import Layout, fan_in, fan_out

CASES = [
    (Layout(), (5, 3), [(5, 3)]),
    (Layout(), (5, 3, 2, 2), [(5, 3, 2, 2)]),
    (Layout(groups=2), (6, 3, 2, 2), [(3, 3, 2, 2)] * 2),
    (Layout(groups=6), (6, 1, 3, 3), [(1, 1, 3, 3)] * 6),
    (Layout(transposed=True), (3, 5), [(5, 3)]),
    (Layout(transposed=True, groups=2), (6, 4, 3, 3), [(4, 3, 3, 3)] * 2),
    (Layout(fused=(4, 4, 4)), (12, 7), [(4, 7)] * 3),
    (Layout(fused=(8, 2, 2), transposed=True), (7, 12), [(8, 7), (2, 7), (2, 7)]),
    (Layout(stacked=True), (4, 5, 3), [(5, 3)] * 4),
    (Layout(stacked=True, fused=(3, 3), interleaved=True), (2, 6, 5), [(3, 5)] * 4),
    (Layout(stacked=True, transposed=True, fused=(2, 4)), (2, 5, 6), [(2, 5), (4, 5)] * 2),
    (Layout(groups=3, fused=(2, 1)), (9, 4), [(2, 4), (1, 4)] * 3),
    (Layout(shape=(2, 6, 3, 5), stacked=True, groups=2), (2, 90), [(3, 3, 5)] * 4),
    (Layout(shape=(4, 6), transposed=True), (4, 2, 3), [(6, 4)]),
]


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (Layout(), ""),
        (Layout(groups=8), "8 groups"),
        (Layout(transposed=True, fused=(8, 2, 2)), "inputs first, rows 8+2+2"),
        (
            Layout(stacked=True, fused=(3, 3), interleaved=True),
            "one matrix per expert, alternating rows 2 x 3",
        ),
        (Layout(shape=(4, 6)), "read as 4x6"),
    ],
)
def test_words(layout, words):
    assert str(layout) == words


@pytest.mark.parametrize(("layout", "shape", "expected"), CASES, ids=repr)
def test_blocks_cover_every_entry_once(layout, shape, expected):
    tensor = torch.zeros(shape)
    blocks = list(layout.blocks(tensor))
    assert [tuple(b.shape) for b in blocks] == expected
    for block in blocks:
        block.add_(1)  # views: writing into a block writes into the tensor
    assert torch.equal(tensor, torch.ones(shape))


def test_blocks_of_a_transposed_convolution_are_its_matrices():
    """A 1x1 transposed convolution with groups is a block-diagonal matrix of its blocks."""
    module = nn.ConvTranspose2d(4, 6, 1, groups=2, bias=False)
    weight = torch.randn(4, 3, 1, 1, generator=generator(0, "test", "convt"))
    x = torch.randn(1, 4, 1, 1, generator=generator(1, "test", "convt"))
    blocks = [b.flatten(1) for b in Layout(transposed=True, groups=2).blocks(weight)]
    out = functional.conv_transpose2d(x, weight, groups=module.groups)
    torch.testing.assert_close(out.flatten(), torch.block_diag(*blocks) @ x.flatten())


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (Layout(groups=4), (6, 3)),
        (Layout(), (6,)),
        (Layout(fused=(2, 3)), (6, 2)),
        (Layout(shape=(4, 4)), (3, 5)),
    ],
)
def test_wrong_shapes_are_refused(layout, shape):
    with pytest.raises(ValueError, match="expected"):
        list(layout.blocks(torch.zeros(shape)))


def test_fans():
    assert fan_in((16, 8, 3, 3)) == 72
    assert fan_out((16, 8, 3, 3)) == 144
    assert fan_in((16, 8)) == 8
