"""Files of every schema stay readable: what earlier versions wrote, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from sigprune.base.bits import as_integers
from sigprune.checkpoint.read import load
from sigprune.checkpoint.save import save
from sigprune.families.codecs import codecs
from sigprune.format.manifest import SCHEMA
from sigprune.format.names import PACKED, PACKED_INDEX, is_packed_file
from sigprune.models.opening import describe
from sigprune.values.mask import Mask

FIXTURES = Path(__file__).parents[1] / "fixtures"
KEEP = torch.tensor([[1, 1, 0, 0, 1, 0, 1, 0], [0, 1, 1, 0, 0, 0, 1, 1]]).bool()
BITS = torch.tensor([[0x3F80, -0x8000, 0, 0, 0x7FC1, 0, 0, 0], [0, 1, 0x4049, 0, 0, 0, -0x81, -1]])


def network() -> nn.Module:
    """1.0, -0.0, a NaN, a kept zero, a subnormal, pi, -infinity and another NaN, in bfloat16."""
    model = nn.Sequential(nn.Linear(8, 2, dtype=torch.bfloat16), nn.BatchNorm1d(2))
    with torch.no_grad():
        as_integers(model[0].weight).copy_(BITS.to(torch.int16))
        model[0].bias.copy_(torch.tensor([0.5, -2.0]))
    return model


def write(folder: Path, codec: str, max_shard_bytes: int = 10**9) -> None:
    """What wrote the fixtures; ``python -m tests.format.test_schemas`` adds those that are missing."""
    view = describe(network(), example=torch.zeros(2, 8))
    save(
        folder,
        view,
        Mask({"0.weight": KEEP}),
        codec=codec,
        max_shard_bytes=max_shard_bytes,
        extra={"recipe_digest": "abc"},
    )


@pytest.mark.parametrize(
    "folder", sorted(FIXTURES.glob("schema-*/*")), ids=lambda p: f"{p.parent.name}/{p.name}"
)
def test_what_was_written_once_is_read_for_ever(folder: Path) -> None:
    blank = nn.Sequential(nn.Linear(8, 2, dtype=torch.bfloat16), nn.BatchNorm1d(2))
    found = load(folder, into=blank, verify=True)
    assert torch.equal(found.mask.keep["0.weight"], KEEP)
    for name, value in network().state_dict().items():
        assert torch.equal(as_integers(found.model.state_dict()[name]), as_integers(value)), name
    assert found.manifest.provenance == {"recipe_digest": "abc"}


def test_there_is_a_fixture_of_every_codec_and_of_shards() -> None:
    found = {path.name for path in (FIXTURES / f"schema-{SCHEMA}").iterdir()}
    assert {*codecs.names(), "shards"} <= found


@pytest.mark.parametrize("codec", ["bitmask", "two_four"])
def test_the_same_bytes_are_written_today(tmp_path: Path, codec: str) -> None:
    """But for compact, whose bytes are those of the zstandard library at hand."""
    write(tmp_path / "x", codec)
    golden = FIXTURES / f"schema-{SCHEMA}" / codec / PACKED
    assert (tmp_path / "x" / PACKED).read_bytes() == golden.read_bytes()


def test_shards_are_written_as_before(tmp_path: Path) -> None:
    write(tmp_path / "x", "bitmask", max_shard_bytes=20)
    golden = FIXTURES / f"schema-{SCHEMA}" / "shards"
    names = sorted(path.name for path in golden.iterdir())
    assert PACKED_INDEX in names
    for name in names:
        assert (tmp_path / "x" / name).read_bytes() == (golden / name).read_bytes(), name
    assert json.loads((golden / PACKED_INDEX).read_text())["metadata"]["total_size"] > 20


def main() -> None:
    """Write the fixtures of this schema that are missing; those that are there are never written again."""
    for name in (*codecs.names(), "shards"):
        folder = FIXTURES / f"schema-{SCHEMA}" / name
        if not folder.exists():
            write(
                folder,
                "bitmask" if name == "shards" else name,
                max_shard_bytes=20 if name == "shards" else 10**9,
            )
            for path in folder.iterdir():
                if not is_packed_file(path.name):
                    path.unlink()


if __name__ == "__main__":
    main()
