"""Damaged folders: every command and function says in one line which file it is, and nothing else happens."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sigprune.base.errors import CheckpointError
from sigprune.checkpoint import read as reader
from sigprune.checkpoint.inspection import check
from sigprune.checkpoint.read import load
from sigprune.checkpoint.safetensors_io import reading
from sigprune.checkpoint.save import save
from sigprune.cli.app import main
from sigprune.format.manifest import DTYPES
from sigprune.format.names import DENSE, PACKED
from sigprune.models.opening import describe
from sigprune.values.mask import Mask
from tests.checkpoint.test_hostile import header_of, with_digest, with_header
from tests.support.console import without_progress

FOLDERS = Path(__file__).parents[1] / "fixtures" / "release-0.1.0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small BERT for masked language modelling, dense and packed."""
    return Path(shutil.copytree(FOLDERS / "transformers", tmp_path / "bert"))


def edit_manifest(path: Path, change: Callable[[dict], object]) -> None:
    """Change the manifest of a packed file, which then carries its right digest."""
    header, data = header_of(path.read_bytes())
    plain = json.loads(header["__metadata__"]["sigprune"])
    change(plain)
    header["__metadata__"]["sigprune"] = with_digest(plain)
    path.write_bytes(with_header(header, data))


def edit_config(folder: Path, **fields: object) -> None:
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(plain | fields))


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one line that a command fails with."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    err = without_progress(capsys.readouterr().err)
    assert code == 2, err
    assert err.startswith("error: "), err
    assert err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("words", [["inspect"], ["inspect", "--json"], ["inspect", "--verify"]], ids=str)
def test_provenance_that_is_nested_deeply(folder: Path, capsys: pytest.CaptureFixture[str], words) -> None:
    edit_manifest(
        folder / PACKED, lambda plain: plain.update(provenance=json.loads(f'{{"a":{nested(700)}}}'))
    )
    assert "nested" in refused(capsys, *words, folder)


def test_a_report_that_is_nested_deeply(folder: Path, tmp_path: Path, capsys) -> None:
    (folder / "report.json").write_text('{"a":' + nested(5000) + "}")
    assert "report.json" in refused(capsys, "convert", folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("value", [{"a": 1}, 3, "BertModel", [3], [["x"]], [None]], ids=str)
def test_architectures_that_are_no_names(folder: Path, tmp_path: Path, capsys, value: object) -> None:
    edit_config(folder, architectures=value)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(folder)
    (folder / PACKED).unlink()
    assert "architectures" in refused(capsys, "convert", folder, tmp_path / "new")


@pytest.mark.parametrize("name", ["uint4", "half", "float", "cfloat", "quint8", "bits8", "float4_e2m1fn_x2"])
def test_dtypes_are_those_that_files_can_hold_by_their_own_name(folder: Path, capsys, name: str) -> None:
    def change(plain: dict) -> None:
        for entry in plain["tensors"].values():
            entry["dtype"] = name

    edit_manifest(folder / PACKED, change)
    assert "dtype" in refused(capsys, "inspect", folder)
    with pytest.raises(CheckpointError, match="dtype"):
        load(folder)


def test_every_dtype_of_an_entry_can_be_stored(tmp_path: Path) -> None:
    for number, dtype in enumerate(DTYPES.values()):
        save_file({"x": torch.zeros(2).to(dtype)}, tmp_path / f"{number}.safetensors")


def test_a_line_end_in_a_name_is_no_second_line(folder: Path, capsys) -> None:
    tensors = {"a\nerror: all is well\x1b[2K": torch.zeros(2, 2)}
    save_file(tensors, folder / DENSE)
    assert r"a\nerror" in refused(capsys, "inspect", "--verify", folder)
    with pytest.raises(CheckpointError) as caught:
        check(folder)
    assert len(str(caught.value).splitlines()) == 1


@contextmanager
def nobody() -> Iterator[Path]:
    """A folder of one's own, as a user who may not read everything."""
    home = Path(tempfile.mkdtemp())
    try:
        home.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(home, 65534, 65534)
            os.seteuid(65534)
        yield home
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        shutil.rmtree(home)


def test_what_may_not_be_read_is_not_called_absent() -> None:
    with nobody() as home:
        (home / "x.safetensors").write_bytes(b"")
        (home / "x.safetensors").chmod(0)
        with pytest.raises(CheckpointError, match="Permission denied"), reading(home / "x.safetensors"):
            pass
        with pytest.raises(CheckpointError, match="no such file"), reading(home / "y.safetensors"):
            pass


@pytest.mark.parametrize("how", ["shorter", "empty", "longer", "other", "renamed", "gone"])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch, how: str) -> None:
    """The whole model or one line; a mapped file would end the process (SIGBUS)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))
    save(tmp_path / "x", describe(model), Mask({}))
    path, unpack, calls = tmp_path / "x" / PACKED, reader.unpack, []
    content = path.read_bytes()

    (tmp_path / "new").write_bytes(content[:1000])
    changes: dict[str, Callable[[], object]] = {
        "shorter": lambda: os.truncate(path, len(content) - 20_000),
        "empty": lambda: os.truncate(path, 0),
        "longer": lambda: path.write_bytes(content * 2),
        "other": lambda: path.write_bytes(bytes(len(content))),
        "renamed": lambda: (tmp_path / "new").rename(path),
        "gone": path.unlink,
    }

    def unpack_late(*args: object, **options: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            changes[how]()
        return unpack(*args, **options)

    monkeypatch.setattr(reader, "unpack", unpack_late)
    blank = nn.Sequential(*(nn.Linear(64, 64) for _ in range(3)))
    if how in {"shorter", "empty", "other"}:
        with pytest.raises(CheckpointError, match=PACKED):
            load(tmp_path / "x", into=blank)
    else:  # what is open stays as it was
        load(tmp_path / "x", into=blank)
        assert all(torch.equal(blank.state_dict()[name], t) for name, t in model.state_dict().items())


def test_a_file_that_is_replaced_before_it_is_read(folder: Path, monkeypatch) -> None:
    """Between the headers and the tensors of a load comes another checkpoint of the same names."""
    read = reader.read_manifests

    def read_and_replace(place: Path) -> object:
        found = read(place)
        save_file({"a": torch.zeros(3)}, folder / PACKED)
        return found

    monkeypatch.setattr(reader, "read_manifests", read_and_replace)
    with pytest.raises(CheckpointError, match=PACKED):
        load(folder)
