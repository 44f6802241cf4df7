"""Every codec: lossless on kept entries, +0.0 elsewhere, and suspicious of what it reads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sigprune.base.errors import BadInput, CheckpointError
from sigprune.base.seeds import generator
from sigprune.families.codecs import codecs
from sigprune.values.bits import as_integers

DTYPES = [
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32,
    torch.int64, torch.uint64, torch.bool, torch.complex64,
]  # fmt: skip
MASKS = {
    "none": lambda n: torch.zeros(n, dtype=torch.bool),
    "all": lambda n: torch.ones(n, dtype=torch.bool),
    "first": lambda n: torch.arange(n) == 0,
    "last": lambda n: torch.arange(n) == n - 1,
    "alternating": lambda n: torch.arange(n) % 2 == 0,
    "runs": lambda n: torch.arange(n) // 300 % 2 == 1,
    "far apart": lambda n: torch.arange(n) % 521 == 520,
    "third": lambda n: torch.rand(n, generator=generator(1, "mask")) < 0.3,
    "rare": lambda n: torch.rand(n, generator=generator(2, "mask")) < 0.002,
}


def any_bits(shape: tuple[int, ...], dtype: torch.dtype, name: str = "") -> Tensor:
    """Uniform random bits: every NaN payload, infinity, subnormal and signed zero may occur."""
    high = 2 if dtype is torch.bool else 256
    size = math.prod(shape) * dtype.itemsize
    stream = generator(0, "test", name)
    return torch.randint(0, high, (size,), dtype=torch.uint8, generator=stream).view(dtype).reshape(shape)


def fitting(name: str, keep: Tensor) -> Tensor:
    """A mask that the codec packs: two_four knows one kind only."""
    if name != "two_four" or keep.dim() == 0 or keep.shape[-1] % 4 or keep.numel() == 0:
        return torch.ones_like(keep) if name == "two_four" else keep
    order = torch.rand(keep.numel() // 4, 4, generator=generator(3, "mask")).argsort(1)
    return (order < 2).reshape(keep.shape)


def misaligned(part: Tensor) -> Tensor:
    """The same bytes at an odd address, as in a mapped file."""
    return torch.cat([part.new_zeros(1), part])[1:]


def check_round_trip(name: str, tensor: Tensor, keep: Tensor) -> None:
    codec = codecs.get(name)
    parts = codec.encode(tensor, keep)
    assert set(parts) == {"", *codecs.read(name).facts["SUFFIXES"].split()}
    assert all(part.dtype is torch.uint8 and part.dim() == 1 for part in parts.values())
    odd = {suffix: misaligned(part) for suffix, part in parts.items()}
    dense, mask = codec.decode(odd, tuple(tensor.shape), tensor.dtype, int(keep.sum()))
    assert dense.dtype is tensor.dtype
    assert dense.is_contiguous()
    assert torch.equal(mask, keep)
    assert torch.equal(as_integers(dense)[keep], as_integers(tensor)[keep])
    assert not as_integers(dense)[~keep].any()


@pytest.mark.parametrize("name", codecs.names())
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_kept_bits_survive_and_removed_bits_are_zero(name: str, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    shape = tuple(data.draw(st.lists(st.integers(0, 9), max_size=4)))
    keep = MASKS[data.draw(st.sampled_from(sorted(MASKS)))](math.prod(shape)).reshape(shape)
    check_round_trip(name, any_bits(shape, dtype), fitting(name, keep))


@pytest.mark.parametrize("name", codecs.names())
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2], ids=str)
def test_large_tensors(name: str, mask: str, dtype: torch.dtype) -> None:
    """More than a chunk, and gaps of more than a byte."""
    shape = (600, 1001, 1) if name != "two_four" else (600, 1000)
    keep = MASKS[mask](math.prod(shape)).reshape(shape)
    check_round_trip(name, any_bits(shape, dtype), fitting(name, keep))


@pytest.mark.parametrize("name", codecs.names())
def test_special_values_survive(name: str) -> None:
    codec = codecs.get(name)
    patterns = torch.tensor([0x7FC01234, 0x7F800001, -0x80000000, 0, 0x7F800000, 1], dtype=torch.int32)
    tensor = patterns.view(torch.float32)  # two NaN payloads, -0.0, a kept zero, infinity, a subnormal
    parts = codec.encode(tensor, torch.ones(6, dtype=torch.bool))
    decoded, keep = codec.decode(parts, (6,), torch.float32, 6)
    assert torch.equal(decoded.view(torch.int32), patterns)
    assert keep.all()


@pytest.mark.parametrize("name", codecs.names())
def test_parts_do_not_depend_on_strides(name: str) -> None:
    codec = codecs.get(name)
    tensor = any_bits((6, 4), torch.float32)
    keep = fitting(name, MASKS["third"](24).reshape(6, 4))
    parts = codec.encode(tensor, keep)
    strided = codec.encode(tensor.t().contiguous().t(), keep.t().contiguous().t())
    assert all(torch.equal(part, strided[suffix]) for suffix, part in parts.items())


@pytest.mark.parametrize("name", codecs.names())
def test_another_shape_dtype_or_count_is_refused(name: str) -> None:
    codec = codecs.get(name)
    keep = fitting(name, MASKS["third"](40).reshape(5, 8))
    kept = int(keep.sum())
    parts = codec.encode(torch.ones(5, 8), keep)
    for shape in [(5, 4), (50, 8), (2**31, 2**31), (2**20, 2**42)]:
        with pytest.raises(CheckpointError):
            codec.decode(parts, shape, torch.float32, kept)
    for other in (0, kept - 1, kept + 1, 40):
        with pytest.raises(CheckpointError):
            codec.decode(parts, (5, 8), torch.float32, other)
    with pytest.raises(CheckpointError):
        codec.decode(parts, (5, 8), torch.float16, kept)


@pytest.mark.parametrize("name", codecs.names())
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_gives_an_error_or_another_tensor_of_the_same_kind(name: str, data: st.DataObject) -> None:
    """Digests are not the codec's business; crashes, hangs and other shapes are."""
    codec = codecs.get(name)
    shape, dtype = (7, 16), data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.bool]))
    keep = fitting(name, MASKS["third"](112).reshape(shape))
    parts = codec.encode(any_bits(shape, dtype), keep)
    suffix = data.draw(st.sampled_from(sorted(parts)))
    content = bytearray(parts[suffix].numpy().tobytes())
    match data.draw(st.sampled_from(["flip", "cut", "more", "random"])):
        case "flip" if content:
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            content = content[: data.draw(st.integers(0, len(content)))]
        case "more":
            content += data.draw(st.binary(min_size=1, max_size=9))
        case _:
            content = bytearray(data.draw(st.binary(max_size=2 * len(content) + 2)))
    parts[suffix] = torch.tensor(list(content), dtype=torch.uint8)
    try:
        dense, mask = codec.decode(parts, shape, dtype, int(keep.sum()))
    except CheckpointError:
        return
    assert (dense.shape, dense.dtype, mask.shape) == (torch.Size(shape), dtype, torch.Size(shape))
    assert int(mask.sum()) == int(keep.sum())
    assert not as_integers(dense)[~mask].any()


GOLDEN = {
    "bitmask": ([4, 0, 0, 128], {"_sparse_bits": [0b00001001]}),
    "two_four": ([4, 0, 0, 128], {"_sparse_places": [0, 0b1100]}),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_bytes_are_the_documented_ones(name: str) -> None:
    """docs/format.md: entries 0 and 3 of four are kept, 4 and the lowest number of int16."""
    tensor, keep = torch.tensor([4, 1, 2, -(2**15)], dtype=torch.int16), torch.tensor([1, 0, 0, 1]).bool()
    main, others = GOLDEN[name]
    parts = codecs.get(name).encode(tensor, keep)
    assert {suffix: part.tolist() for suffix, part in parts.items()} == {"": main, **others}


def test_compact_reads_what_the_page_says() -> None:
    """Frames of any zstandard writer will do; 1.0 and -3.0 in bfloat16 are 3F80 and C040."""

    def frame(*content: int) -> list[int]:
        return list(zstandard.ZstdCompressor(level=5).compress(bytes(content)))

    keep = torch.zeros(600, dtype=torch.bool).index_fill(0, torch.tensor([2, 599]), True)
    dense = torch.zeros(600, dtype=torch.bfloat16)
    dense[2], dense[599] = 1.0, -3.0
    # rotated left by one: 7F00 and 8081; gaps 2, 596 = 255 + 255 + 86, and 0
    common = {"": [0x00, 0x81], "_sparse_exponents": frame(0x7F, 0x80)}
    bits = np.packbits(keep.numpy(), bitorder="little").tolist()
    for positions in ([1, *frame(2, 255, 255, 86, 0)], [0, *frame(*bits)]):
        parts = {
            suffix: torch.tensor(content, dtype=torch.uint8)
            for suffix, content in (common | {"_sparse_positions": positions}).items()
        }
        decoded, mask = codecs.get("compact").decode(parts, (600,), torch.bfloat16, 2)
        assert torch.equal(decoded.view(torch.int16), dense.view(torch.int16))
        assert torch.equal(mask, keep)


@pytest.mark.parametrize("size", [2**33, 2**20])
def test_compact_bombs_take_no_memory(size: int) -> None:
    """A frame that says, or does not say, that it holds far more than the tensor justifies."""
    codec = codecs.get("compact")
    parts = codec.encode(torch.ones(64), torch.ones(64, dtype=torch.bool))
    if size == 2**33:  # a header alone: single segment, content size in eight bytes
        bomb = (0xFD2FB528).to_bytes(4, "little") + bytes([0xE0]) + size.to_bytes(8, "little") + b"\x01\0\0"
    else:
        packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
        bomb = packer.compress(bytes(size)) + packer.flush()
    for suffix, lead in (("_sparse_exponents", []), ("_sparse_positions", [1])):
        damaged = parts | {suffix: torch.tensor(lead + list(bomb), dtype=torch.uint8)}
        with pytest.raises(CheckpointError, match="expected a frame of"):
            codec.decode(damaged, (64,), torch.float32, 64)


def test_bitmask_needs_torch_alone_on_any_device() -> None:
    tensor, keep = any_bits((9, 7), torch.bfloat16), MASKS["third"](63).reshape(9, 7)
    parts = codecs.get("bitmask").encode(tensor, keep)
    bits = parts["_sparse_bits"][:, None] >> torch.arange(8) & 1
    mask = bits.reshape(-1)[:63].bool().reshape(9, 7)
    dense = torch.zeros(9, 7, dtype=torch.bfloat16).masked_scatter(mask, parts[""].view(torch.bfloat16))
    decoded, own = codecs.get("bitmask").decode(parts, (9, 7), torch.bfloat16, int(keep.sum()))
    assert torch.equal(dense.view(torch.int16), decoded.view(torch.int16))
    assert torch.equal(mask, own)


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_two_four_finds_the_axis(axis: int) -> None:
    shape = [8, 4, 3, 12]
    tensor = any_bits(tuple(shape), torch.float16)
    last = [n for i, n in enumerate(shape) if i != axis] + [shape[axis]]
    keep = fitting("two_four", torch.zeros(last, dtype=torch.bool)).movedim(-1, axis).contiguous()
    check_round_trip("two_four", tensor, keep)
    assert codecs.get("two_four").encode(tensor, keep)["_sparse_places"][0] == axis


def test_two_four_refuses_other_masks() -> None:
    for keep in (torch.tensor([[1, 1, 1, 0]]).bool(), torch.zeros(4, 4).bool(), torch.zeros(()).bool()):
        with pytest.raises(BadInput, match="exactly two of each four"):
            codecs.get("two_four").encode(torch.ones(keep.shape), keep)


def test_wide_dtypes_are_refused_in_words() -> None:
    with pytest.raises(BadInput, match="complex128"):
        as_integers(torch.zeros(2, dtype=torch.complex128))
