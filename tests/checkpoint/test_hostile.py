"""Ten thousand damaged and lying files: an error that says so, or the exact model; nothing else, ever."""

from __future__ import annotations

import hashlib
import json
import random
import resource
import shutil
import struct
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sigprune.base.bits import as_integers
from sigprune.base.errors import CheckpointError
from sigprune.checkpoint.inspection import check, inspect
from sigprune.checkpoint.read import load, load_mask
from sigprune.checkpoint.save import save
from sigprune.families.codecs import codecs
from sigprune.format.names import DENSE, DENSE_INDEX, PACKED, PACKED_INDEX
from sigprune.models.opening import describe
from sigprune.pruning.choose import apply_, prune
from sigprune.values.mask import Mask
from tests.support.levels import by_rows_and_columns, levels_at_any_price

EACH = [150, pytest.param(3500, marks=pytest.mark.slow)]
"""Mutated files of each codec: more than 10,000 together."""


class Net(nn.Module):
    """A few kinds of tensors: masked, plain, a buffer, half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 12)
        self.half = nn.Linear(8, 4, bias=False, dtype=torch.bfloat16)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x)[:, :4])


@pytest.fixture(scope="module", params=[*codecs.names(), "compact by levels"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Net]:
    torch.manual_seed(0)
    model = Net()
    view = describe(model, example=torch.zeros(2, 16))
    codec, _, levels = request.param.partition(" by ")
    if codec == "two_four":
        mask = prune(view, sparsity=0.5, score="magnitude", pattern="n_m", allocation="uniform")
    else:
        mask = prune(view, sparsity=0.75, score="magnitude")
    folder = tmp_path_factory.mktemp("hostile") / "x"
    with levels_at_any_price() if levels else nullcontext():
        if levels:
            mask = Mask({**mask.keep, "first.weight": by_rows_and_columns((12, 16))})
        apply_(view, mask)
        save(folder, view, mask, codec=codec)
    if levels:
        assert load_file(folder / PACKED)["first.weight_sparse_positions"][0] == 2
    return folder, model


def header_of(content: bytes) -> tuple[dict, bytes]:
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header: dict, data: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def with_digest(plain: dict) -> str:
    """A manifest with the digest that it would have if sigprune had written it."""
    rest = {key: value for key, value in plain.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    rest["digest"] = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps(rest, sort_keys=True, separators=(",", ":"))


def some_value(draw: random.Random) -> object:
    """What may stand in JSON where something else is expected."""
    return draw.choice([
        None, True, -1, 0, 1, 2**31, 2**63, 2**64, -(2**63), 1.5, 1e308, "", "x", "../../etc/passwd",
        "float32", "bfloat16", "Tensor", "__class__", "bitmask", "compact", "two_four", [], [0],
        [2**62, 2**62], [-1], [[]], {}, {"": ""}, {"a": {"a": {}}}, "0" * 64, "\\u0000", [1] * 100,
        "9" * 5000,
    ])  # fmt: skip


def mutate_json(draw: random.Random, value: object) -> object:
    """One change somewhere inside."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key, changed = draw.choice(sorted(value)), dict(value)
        match draw.randrange(8):
            case 0:
                del changed[key]
            case 1:
                changed[draw.choice([key + "x", "", "sigprune", "../x"])] = changed.pop(key)
            case 2:
                changed["more"] = some_value(draw)
            case 3:
                changed[key] = changed[draw.choice(sorted(value))]
            case _:
                changed[key] = mutate_json(draw, value[key])
        return changed
    if isinstance(value, list) and value and draw.random() < 0.7:
        changed_list = list(value)
        place = draw.randrange(len(value))
        changed_list[place] = mutate_json(draw, value[place])
        return changed_list
    if isinstance(value, int) and draw.random() < 0.6:
        return value + draw.choice([-1, 1, 8, -8, 2**16, 2**32])
    return some_value(draw)


def flipped(draw: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(draw: random.Random, content: bytes) -> bytes:
    return content[: draw.randrange(len(content))] + draw.choice([b"", b"", bytes(9), content[:50]])


def relabelled(draw: random.Random, content: bytes) -> bytes:
    """A lying header: shapes, dtypes, offsets, names, metadata."""
    header, data = header_of(content)
    changed = mutate_json(draw, header)
    return with_header(changed if isinstance(changed, dict) else header, data)


def lying(draw: random.Random, content: bytes) -> bytes:
    """A manifest that lies and carries the right digest of itself."""
    header, data = header_of(content)
    plain = json.loads(header["__metadata__"]["sigprune"])
    changed = mutate_json(draw, plain)
    header["__metadata__"]["sigprune"] = (
        with_digest(changed) if isinstance(changed, dict) else json.dumps(changed)
    )
    return with_header(header, data)


def damaged_parts(draw: random.Random, content: bytes) -> bytes:
    """Stored bytes of a masked tensor that are wrong, with digests that are right."""
    header, data = header_of(content)
    plain = json.loads(header["__metadata__"]["sigprune"])
    name = draw.choice([name for name, entry in plain["tensors"].items() if "parts" in entry])
    suffix = draw.choice(sorted(plain["tensors"][name]["parts"]))
    start, stop = header[name + suffix]["data_offsets"]
    if stop == start:
        return flipped(draw, content)
    own = flipped(draw, data[start:stop])
    plain["tensors"][name]["parts"][suffix] = hashlib.sha256(own).hexdigest()
    header["__metadata__"]["sigprune"] = with_digest(plain)
    return with_header(header, data[:start] + own + data[stop:])


MUTATIONS: list[Callable[[random.Random, bytes], bytes]] = [flipped, cut, relabelled, lying, damaged_parts]


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(as_integers(mine[name]), as_integers(theirs[name])) for name in mine)


@pytest.mark.parametrize("each", EACH)
def test_every_mutated_file_is_refused_or_exact(saved: tuple[Path, Net], tmp_path: Path, each: int) -> None:
    folder, model = saved
    content = (folder / PACKED).read_bytes()
    target = tmp_path / PACKED
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = {"refused": 0, "exact": 0}
    for number in range(each):
        draw = random.Random(number)
        mutation = MUTATIONS[number % len(MUTATIONS)]
        changed = mutation(draw, content)
        target.write_bytes(changed)
        fresh = Net()
        untouched = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
        try:
            # a consistent lie about values is found by the digests of what they decode to
            loaded = load(tmp_path, into=fresh, verify=mutation is damaged_parts)
        except CheckpointError as error:
            message = str(error)
        else:
            told["exact"] += 1
            assert same(loaded.model, model), (number, mutation.__name__)
            continue
        told["refused"] += 1
        assert len(message) < 2000, number
        assert all(torch.equal(untouched[n], t) for n, t in fresh.state_dict().items()), number
    assert told["refused"] > 0.9 * each, told
    # ru_maxrss is in KiB: no lie may cost memory
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


@pytest.mark.parametrize("each", [60, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("reader", [inspect, load_mask, check], ids=lambda f: f.__name__)
def test_readers_without_a_model_refuse_too(
    saved: tuple[Path, Net], tmp_path: Path, reader: Callable[[Path], object], each: int
) -> None:
    """Without a model to compare with, a shape may be a lie as long as everything fits it."""
    content = (saved[0] / PACKED).read_bytes()
    for number in range(each):
        draw = random.Random(number)
        (tmp_path / PACKED).write_bytes(MUTATIONS[number % len(MUTATIONS)](draw, content))
        try:
            reader(tmp_path)
        except CheckpointError:
            continue


@pytest.mark.parametrize("each", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_every_mutated_index_is_refused_or_exact(tmp_path: Path, each: int) -> None:
    """Shards that are missing, swapped, named elsewhere, twice."""
    model = Net()
    view = describe(model, example=torch.zeros(2, 16))
    mask = prune(view, sparsity=0.5, score="magnitude")
    apply_(view, mask)
    save(tmp_path / "x", view, mask, max_shard_bytes=150)
    text = (tmp_path / "x" / PACKED_INDEX).read_text()
    shards = sorted(path for path in (tmp_path / "x").iterdir() if "model.sparse-" in path.name)
    assert len(shards) > 2
    for number in range(each):
        draw = random.Random(number)
        plain = json.loads(text)
        if number % 2:
            inner = mutate_json(draw, json.loads(plain["metadata"]["sigprune"]))
            plain["metadata"]["sigprune"] = (
                with_digest(inner) if isinstance(inner, dict) else json.dumps(inner)
            )
        else:
            plain = mutate_json(draw, plain)
        (tmp_path / "x" / PACKED_INDEX).write_text(json.dumps(plain))
        try:
            loaded = load(tmp_path / "x", into=Net())
        except CheckpointError:
            continue
        assert same(loaded.model, model), number
        assert loaded.mask == mask
    (tmp_path / "x" / PACKED_INDEX).write_text(text)
    one, two = shards[0].read_bytes(), shards[1].read_bytes()
    for damage in (shards[1].unlink, lambda: shards[1].write_bytes(one)):
        damage()
        with pytest.raises(CheckpointError, match=r"model\.sparse-00002-of"):
            load(tmp_path / "x", into=Net())
        shards[1].write_bytes(two)
    assert same(load(tmp_path / "x", into=Net()).model, model)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "x.bin", 3])
def test_a_dense_index_leads_nowhere_else(tmp_path: Path, name: object) -> None:
    torch.manual_seed(0)
    view = describe(nn.Linear(4, 4))
    save(tmp_path / "x", view, Mask({}))
    (tmp_path / "x" / DENSE).unlink()
    index = {"metadata": {}, "weight_map": {"weight": name, "bias": name}}
    (tmp_path / "x" / f"{DENSE}.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="safetensors files beside it"):
        check(tmp_path / "x")


@pytest.mark.parametrize("text", [b'{"weight_map": {"a": ["x"]}}', b"\xff\xfe", b'{"weight_map": 3}'])
def test_odd_dense_indices_are_named(saved: tuple[Path, Net], tmp_path: Path, text: bytes) -> None:
    folder = tmp_path / "x"
    shutil.copytree(saved[0], folder)
    (folder / DENSE).unlink()
    (folder / DENSE_INDEX).write_bytes(text)
    with pytest.raises(CheckpointError, match=DENSE_INDEX):
        check(folder)
