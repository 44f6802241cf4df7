"""Every input has a bound that is checked before work is done on it (docs/format.md, section 6)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sigprune.base import canonical_json, safetensors_header
from sigprune.base.canonical_json import load_object, read_text
from sigprune.base.errors import BadInput, CheckpointError, TooLarge
from sigprune.checkpoint import read, safetensors_io, sidecar_files
from sigprune.checkpoint.conversion import convert
from sigprune.checkpoint.inspection import check, inspect
from sigprune.checkpoint.prune_shards import prune_files
from sigprune.checkpoint.read import load
from sigprune.checkpoint.save import save
from sigprune.families.codecs import _frames
from sigprune.format import network_config
from sigprune.format.names import DENSE, DENSE_INDEX, PACKED, PACKED_INDEX
from sigprune.hub.upload_plan import plan_push
from sigprune.models.bounded_build import bounded_modules
from sigprune.models.opening import describe
from sigprune.report.record import Report
from sigprune.values.mask import Mask

FOLDERS = Path(__file__).parent / "fixtures" / "release-0.1.0"
PAGE = (Path(__file__).parents[1] / "docs" / "format.md").read_text(encoding="utf-8")
FIVE_GB = 5 * 10**9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDERS / "transformers", tmp_path / "bert"))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDERS / "shards", tmp_path / "shards"))


@pytest.fixture(scope="module")
def _imported() -> None:
    """Libraries take memory of their own."""
    for name in ("timm", "transformers"):
        load(FOLDERS / name)


@pytest.fixture(autouse=True)
def _little_memory(_imported: None) -> Iterator[None]:
    """ru_maxrss is in KiB; what is refused takes no memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024


def enlarge(path: Path) -> None:
    """Five GB of zeros behind what is there, none of them on the disk."""
    path.touch()
    os.truncate(path, FIVE_GB)


READERS: dict[str, Callable[[Path], object]] = {
    "load": load,
    "inspect": inspect,
    "check": check,
    "convert": lambda folder: convert(folder, folder.parent / "new"),
    "push": lambda folder: plan_push(folder, "user/x"),
}


@pytest.mark.parametrize(
    ("name", "readers"),
    [
        ("config.json", ["load", "convert"]),
        ("report.json", ["convert", "push"]),
        ("README.md", ["push"]),
    ],
)
def test_a_text_of_five_gb_is_not_read(folder: Path, name: str, readers: list[str]) -> None:
    enlarge(folder / name)
    for reader in readers:
        with pytest.raises(CheckpointError, match=rf"{re.escape(name)}.*at most 67,108,864 bytes, got 5,"):
            READERS[reader](folder)


def test_indices_and_reports_of_five_gb_are_not_read(shards: Path) -> None:
    for name, reader in ((DENSE_INDEX, check), (PACKED_INDEX, load)):
        enlarge(shards / name)
        with pytest.raises(TooLarge, match=rf"{re.escape(name)}.*at most"):
            reader(shards)
    enlarge(shards / "report.json")
    with pytest.raises(TooLarge, match="at most"):
        Report.read(shards)


@pytest.mark.parametrize("length", [25_000_001, 95_000_000, 4 * 10**9, 2**63])
def test_headers_beyond_the_bound_are_not_read(folder: Path, length: int) -> None:
    for name, readers in ((DENSE, ["check"]), (PACKED, ["load", "inspect", "check", "convert", "push"])):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(struct.pack("<Q", length) + content[8:])
        enlarge(folder / name)
        for reader in readers:
            with pytest.raises(CheckpointError, match=rf"{re.escape(name)}.*at most 25,000,000 bytes"):
                READERS[reader](folder)
        (folder / name).write_bytes(content)
    (folder / PACKED).unlink()
    (folder / DENSE).write_bytes(struct.pack("<Q", length))
    enlarge(folder / DENSE)
    with pytest.raises(BadInput, match="at most 25,000,000 bytes"):
        prune_files(folder, folder.parent / "new", sparsity=0.5)


def test_values_levels_keys_and_characters_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as fewer:
        fewer.setattr(canonical_json, "MAX_VALUES", 100)
        assert len(load_object('{"a":[' + ",".join("1" * 90) + "]}")["a"]) == 90
        with pytest.raises(TooLarge, match="at most 100 values"):
            load_object('{"a":[' + "[]," * 99 + "[]]}")
    levels = canonical_json.MAX_LEVELS - 1
    assert load_object('{"a":' + "[" * levels + "]" * levels + "}")
    with pytest.raises(TooLarge, match="at most 100 levels"):
        load_object('{"a":' + "[" * (levels + 1) + "]" * (levels + 1) + "}")
    with pytest.raises(CheckpointError, match="'a' twice"):
        load_object('{"b":{"a":1,"a":2}}')
    with pytest.raises(CheckpointError, match="half a character"):
        load_object(r'{"a":"\ud800"}')
    assert load_object(r'{"a":"\ud83d\ude00"}') == {"a": "\U0001f600"}


def test_a_text_that_grows_or_is_none(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"a" * 11)
    with pytest.raises(TooLarge, match="at most 10 bytes, got 11"):
        read_text(tmp_path / "x", max_bytes=10)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(CheckpointError, match="expected a file"):
            read_text(path)


def test_frames_have_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """27 MB of empty frames took 24 s."""
    one, none = (_frames.frame(np.zeros(n, np.uint8)).tobytes() for n in (1, 0))
    most = _frames.MAX_FRAMES
    found = _frames.contents(np.frombuffer(one * most, np.uint8), 0, most)
    assert len(found) == most
    for bomb in (none * 3_000_000, one * (most + 1), none * (most + 1)):
        with pytest.raises(TooLarge, match=f"at most {most:,} zstandard frames"):
            _frames.contents(np.frombuffer(bomb, np.uint8), 0, 10**9)


HUGE = {
    "num_hidden_layers": [10**6, 10**9, 10**30, 1e300],
    "num_attention_heads": [10**9],
    "hidden_size": [10**7, 10**12],
    "intermediate_size": [10**9],
    "vocab_size": [10**9, 10**15],
    "type_vocab_size": [10**9],
    "max_position_embeddings": [10**9],
    "num_labels": [10**9],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in HUGE.items() for value in values])
def test_counts_are_compared_before_anything_is_built(folder: Path, key: str, value: float) -> None:
    """Of the first release, whose manifests do not repeat the configuration."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(CheckpointError):
        load(folder)
    (folder / PACKED).unlink()
    with pytest.raises(BadInput):
        convert(folder, folder.parent / "new")


@pytest.mark.parametrize(
    "args", [{"depth": 10**6}, {"depth": 10**12}, {"embed_dim": 2 * 10**6}, {"img_size": 10**7}]
)
def test_counts_of_timm_too(tmp_path: Path, args: dict[str, int]) -> None:
    folder = Path(shutil.copytree(FOLDERS / "timm", tmp_path / "x"))
    config = json.loads((folder / "config.json").read_text())
    config["model_args"] |= args
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError):
        load(folder)


def test_buffers_that_no_file_holds_have_a_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "_BUFFERS", -(10**9))
    with pytest.raises(TooLarge, match="bytes of buffers"):
        load(folder)


class Many(nn.Module):
    """More tensors than a file may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.ParameterList(nn.Parameter(torch.full((2, 2), float(i))) for i in range(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum((x @ each for each in self.all), x)


def test_what_is_written_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, view = Many(), describe(Many(), example=torch.zeros(1, 2))
    monkeypatch.setattr(safetensors_io, "MAX_TENSORS", 3)
    save(tmp_path / "x", view, Mask({}))
    assert sum(path.name.startswith("model.sparse-") for path in (tmp_path / "x").iterdir()) == 3
    assert (tmp_path / "x" / DENSE).is_file()
    loaded = load(tmp_path / "x", into=Many(), verify=True).model
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in model.state_dict().items())
    deep: object = 1
    for _ in range(canonical_json.MAX_LEVELS):
        deep = [deep]
    with pytest.raises(BadInput, match="levels"):
        save(tmp_path / "deep", view, Mask({}), extra={"deep": deep})
    monkeypatch.setattr(safetensors_io, "MAX_HEADER", 2000)
    with pytest.raises(BadInput, match=r"readers take 2,000.*--max-shard"):
        save(tmp_path / "long", view, Mask({}), extra={"long": "a" * 2000})
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_vocabulary_beyond_the_bound_stays_behind(folder: Path, tmp_path: Path) -> None:
    enlarge(folder / "vocab.txt")
    assert "vocab.txt" in convert(folder, tmp_path / "new").left


def test_the_page_states_the_bounds() -> None:
    for number in (
        canonical_json.MAX_BYTES, canonical_json.MAX_VALUES, canonical_json.MAX_LEVELS,
        safetensors_header.MAX_HEADER, _frames.MAX_FRAMES, network_config.MAX_COUNT, sidecar_files.LARGE,
        sidecar_files.SMALL, safetensors_io.MAX_TENSORS, read._BUFFERS,
    ):  # fmt: skip
        assert f"{number:,}" in PAGE.partition("## 6. Bounds")[2].partition("## 7.")[0], number


def test_a_network_that_grows_too_large_is_given_up_while_it_is_built() -> None:
    most, grown = network_config.max_modules(3), nn.ModuleList()

    def build() -> None:
        with bounded_modules(3, "x"):
            for _ in range(10 * most):
                grown.append(nn.Identity())

    with pytest.raises(TooLarge, match=rf"x: it makes a network of more than {most:,} parameters"):
        build()
    assert len(grown) == most


def test_a_builder_that_hides_what_went_wrong_is_found_out() -> None:
    with pytest.raises(TooLarge), bounded_modules(3, "x"), contextlib.suppress(TooLarge):
        nn.Sequential(*(nn.Identity() for _ in range(network_config.max_modules(3) + 1)))
