"""Every codec: lossless on kept entries, +0.0 elsewhere, and suspicious of what it reads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sigprune.base.errors import BadInput, CheckpointError
from sigprune.base.seeds import generator
from sigprune.families.codecs import codecs
from sigprune.families.codecs.bitmask import decode, encode
from sigprune.values.bits import as_integers

DTYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int8,
    torch.uint16,
    torch.int64,
    torch.bool,
    torch.complex64,
]
SHAPES = [(), (1,), (0, 3), (7,), (8,), (3, 5), (4, 2, 3, 3)]


def any_bits(shape: tuple[int, ...], dtype: torch.dtype, name: str = "") -> Tensor:
    """Uniform random bits: every NaN payload, infinity, subnormal and signed zero may occur."""
    width = torch.zeros((), dtype=dtype).element_size()
    high = 2 if dtype is torch.bool else 256
    stream = generator(0, "test", name)
    size = torch.Size(shape).numel() * width
    return torch.randint(0, high, (size,), dtype=torch.uint8, generator=stream).view(dtype).reshape(shape)


def some_mask(shape: tuple[int, ...], density: float) -> Tensor:
    return torch.rand(shape, generator=generator(1, "mask")) < density


@pytest.mark.parametrize("name", codecs.names())
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kept_bits_survive_and_removed_bits_are_zero(
    name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    codec = codecs.get(name)
    tensor = any_bits(shape, dtype)
    for density in (0.0, 0.3, 1.0):
        keep = some_mask(shape, density)
        decoded, mask = codec.decode(codec.encode(tensor, keep), shape, dtype)
        assert decoded.dtype is dtype
        assert torch.equal(mask, keep)
        assert torch.equal(as_integers(decoded)[keep], as_integers(tensor)[keep])
        assert not as_integers(decoded)[~keep].any()


@pytest.mark.parametrize("name", codecs.names())
def test_special_values_survive(name: str) -> None:
    codec = codecs.get(name)
    patterns = torch.tensor([0x7FC01234, 0x7F800001, -0x80000000, 0, 0x7F800000, 1], dtype=torch.int32)
    tensor = patterns.view(torch.float32)  # two NaN payloads, -0.0, a kept zero, infinity, a subnormal
    decoded, keep = codec.decode(codec.encode(tensor, torch.ones(6, dtype=torch.bool)), (6,), torch.float32)
    assert torch.equal(decoded.view(torch.int32), patterns)
    assert keep.all()


@pytest.mark.parametrize("name", codecs.names())
def test_parts_are_the_declared_ones_and_do_not_depend_on_strides(name: str) -> None:
    codec = codecs.get(name)
    tensor, keep = any_bits((6, 4), torch.float32), some_mask((6, 4), 0.5)
    parts = codec.encode(tensor, keep)
    strided = codec.encode(tensor.t().contiguous().t(), keep.t().contiguous().t())
    assert set(parts) == set(codecs.read(name).facts["SUFFIXES"].split())
    for suffix, part in parts.items():
        assert torch.equal(as_integers(part), as_integers(strided[suffix]))


@pytest.mark.parametrize("name", codecs.names())
def test_another_shape_or_dtype_is_refused(name: str) -> None:
    codec = codecs.get(name)
    parts = codec.encode(torch.ones(5, 7), some_mask((5, 7), 0.5))
    for shape in [(5, 6), (50, 7), (2**31, 2**31), (2**32, 2**32)]:
        with pytest.raises(CheckpointError):
            codec.decode(parts, shape, torch.float32)
    with pytest.raises(CheckpointError):
        codec.decode(parts, (5, 7), torch.float16)


def test_bitmask_layout_is_the_documented_one() -> None:
    keep = torch.tensor([True, False, False, True, False, False, False, False, False, True])
    parts = encode(torch.arange(10.0), keep)
    assert parts["_sparse_bits"].tolist() == [0b00001001, 0b00000010]
    assert parts["_sparse_values"].tolist() == [0.0, 3.0, 9.0]


def test_bitmask_refuses_stray_bits_and_wrong_counts() -> None:
    parts = encode(torch.ones(10), torch.ones(10, dtype=torch.bool))
    with pytest.raises(CheckpointError, match="stray mask bits"):
        decode(parts | {"_sparse_bits": torch.tensor([255, 7], dtype=torch.uint8)}, (10,), torch.float32)
    with pytest.raises(CheckpointError, match="expected 10 values"):
        decode(parts | {"_sparse_values": torch.ones(9)}, (10,), torch.float32)
    with pytest.raises(CheckpointError, match="expected 2 mask bytes"):
        decode(parts | {"_sparse_bits": torch.tensor([255], dtype=torch.uint8)}, (10,), torch.float32)
    with pytest.raises(CheckpointError, match="expected 2 mask bytes"):
        decode(parts | {"_sparse_bits": torch.tensor([255, 3], dtype=torch.int64)}, (10,), torch.float32)


def test_wide_dtypes_are_refused_in_words() -> None:
    with pytest.raises(BadInput, match="complex128"):
        as_integers(torch.zeros(2, dtype=torch.complex128))
