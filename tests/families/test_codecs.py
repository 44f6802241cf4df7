"""Every codec: lossless on kept entries, +0.0 elsewhere, and suspicious of what it reads."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sigprune.base.bits import as_integers
from sigprune.base.errors import BadInput, CheckpointError
from sigprune.base.rng import generator
from sigprune.families.codecs import _exponents, codecs
from sigprune.families.codecs._levels import Order
from tests.support.levels import by_rows_and_columns, levels_at_any_price

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
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.bool]))
    if name == "compact" and data.draw(st.booleans()):
        keep = by_rows_and_columns((96, 64))
    else:
        keep = fitting(name, MASKS["third"](112).reshape(7, 16))
    shape = tuple(keep.shape)
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
    common = {"": [0x00, 0x81], "_sparse_exponents": frame(0, 0x7F, 0x80)}
    table = {"_sparse_exponents": frame(1, 0x80) + frame(0b01, 0x7F)}  # the first is not there, the second is
    bits = np.packbits(keep.numpy(), bitorder="little").tolist()
    gaps = [1, *frame(2, 255, 255, 86, 0)], [1, *frame(2, 255), *frame(255, 86, 0)]
    for exponents, positions in itertools.product(({}, table), ([0, *frame(*bits)], *gaps)):
        parts = {
            suffix: torch.tensor(content, dtype=torch.uint8)
            for suffix, content in (common | exponents | {"_sparse_positions": positions}).items()
        }
        decoded, mask = codecs.get("compact").decode(parts, (600,), torch.bfloat16, 2)
        assert torch.equal(decoded.view(torch.int16), dense.view(torch.int16))
        assert torch.equal(mask, keep)


@pytest.mark.parametrize("shape", [(96, 64), (40, 16, 3, 3), (700, 500)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.bool], ids=str)
def test_masks_of_rows_and_columns_are_coded_by_levels(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor, keep = any_bits(shape, dtype), by_rows_and_columns(shape)
    plain = codecs.get("compact").encode(tensor, keep)["_sparse_positions"]
    with levels_at_any_price():
        check_round_trip("compact", tensor, keep)
        positions = codecs.get("compact").encode(tensor, keep)["_sparse_positions"]
    assert positions[0] == 2
    shuffled = keep.reshape(-1)[torch.randperm(keep.numel(), generator=generator(5, "mask"))].reshape(shape)
    without = codecs.get("compact").encode(tensor, shuffled)["_sparse_positions"]
    assert without[0] != 2
    if keep.numel() > 10_000:
        assert len(positions) < 0.9 * len(without)
    # levels take time to decode, which small savings and many kept entries are not worth
    assert plain[0] == 0


@pytest.mark.parametrize(
    ("shape", "dtype", "by_levels"),
    [((400, 500), torch.float32, True), ((400, 500), torch.int8, False), ((40, 50), torch.float32, False)],
)
def test_levels_are_written_where_they_are_worth_their_time(
    shape: tuple[int, int], dtype: torch.dtype, by_levels: bool
) -> None:
    """They must save something, of tensors of which little is kept."""
    stream = generator(4, "mask")
    rows, columns = torch.randn(shape[0], 1, generator=stream), torch.randn(1, shape[1], generator=stream)
    keep = torch.rand(shape, generator=stream) < torch.sigmoid(3 * (rows + columns) - 6)
    assert 0.04 < float(keep.double().mean()) < 0.2
    tensor = any_bits(shape, dtype)
    check_round_trip("compact", tensor, keep)
    assert (codecs.get("compact").encode(tensor, keep)["_sparse_positions"][0] == 2) == by_levels


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_the_order_of_levels_is_that_of_the_page(data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, 31), min_size=1, max_size=12)), dtype=np.uint8)
    drawn = st.lists(st.sampled_from(data.draw(st.sampled_from([[7], [0, 31], [3, 4, 9]]))), min_size=24)
    columns = np.array(data.draw(drawn), dtype=np.uint8)
    size = len(rows) * len(columns)
    row, column = np.divmod(np.arange(size), len(columns))
    expected = np.lexsort((np.arange(size), rows[row], rows[row].astype(int) + columns[column]))
    order = Order(rows, columns)
    assert np.array_equal(order.places(np.arange(size)), expected)
    assert np.array_equal(order.positions(expected), np.arange(size))
    some = np.flatnonzero(MASKS["third"](size).numpy())
    assert np.array_equal(order.places(some), expected[some])
    sums = (rows[row].astype(int) + columns[column])[expected]
    assert order.bounds().tolist() == [0, *(np.flatnonzero(np.diff(sums)) + 1), size]


@pytest.mark.parametrize("rows", [[0], [31], [0, 31]])
@pytest.mark.parametrize("columns", [[0], [31], [0, 31]])
def test_an_order_takes_less_than_its_tensor(rows: list[int], columns: list[int]) -> None:
    """Levels that no row or column has make no segments."""
    order = Order(np.array(rows * 1000, dtype=np.uint8), np.array(columns * 8, dtype=np.uint8))
    size = 1000 * len(rows) * 8 * len(columns)
    assert max(len(each) for each in vars(order).values()) <= size / 8 + 1


@pytest.mark.parametrize("kinds", [1, 2, 3, 5, 6, 15, 16, 40, 256])
@pytest.mark.parametrize("kept", [0, 1, 2, 7, 200_000])
def test_frequent_bytes_are_digits(kinds: int, kept: int) -> None:
    stream = np.random.default_rng(kinds)
    values = (255 - np.minimum(stream.geometric(0.4, kept) - 1, kinds - 1)).astype(np.uint8)
    part = _exponents.encode(values)
    assert np.array_equal(_exponents.decode(part, kept), values)
    if kept == 200_000:
        share = np.bincount(values) / kept
        share = share[share > 0]
        assert len(part) * 8 <= -kept * (share * np.log2(share)).sum() * 1.03 + 8 * 300
        for other in (kept - 9, kept + 9):
            with pytest.raises(CheckpointError):
                _exponents.decode(part, other)


def test_levels_that_would_take_more_than_the_tensor_are_refused() -> None:
    keep = by_rows_and_columns((96, 64))
    with levels_at_any_price():
        parts = codecs.get("compact").encode(torch.ones(96, 64), keep)
    kept, positions = int(keep.sum()), parts["_sparse_positions"].numpy().tobytes()
    for shape in [(6144,), (6144, 1), (128, 64)]:
        with pytest.raises(CheckpointError):
            codecs.get("compact").decode(parts, shape, torch.float32, kept)
    reader = zstandard.ZstdDecompressor().stream_reader(positions[1:], read_across_frames=True)
    content = reader.read()
    for column_levels in (bytes([32] * 64), bytes(range(9)) * 7 + b"0"):
        text = content[:96] + column_levels + content[160:]
        frames = b"\2" + zstandard.ZstdCompressor().compress(text)
        parts["_sparse_positions"] = torch.tensor(list(frames), dtype=torch.uint8)
        with pytest.raises(CheckpointError, match="level"):
            codecs.get("compact").decode(parts, (96, 64), torch.float32, kept)


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
    for suffix, lead in (("_sparse_exponents", []), ("_sparse_positions", [1]), ("_sparse_positions", [2])):
        damaged = parts | {suffix: torch.tensor(lead + list(bomb), dtype=torch.uint8)}
        with pytest.raises(CheckpointError, match="frame"):
            codec.decode(damaged, (8, 8), torch.float32, 64)


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
