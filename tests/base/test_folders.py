"""New folders appear whole or not at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sigprune.base import folders
from sigprune.base.errors import BadInput, FolderExists
from sigprune.base.folders import new_folder


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_folder_and_its_parents_appear_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with new_folder(target) as staging:
        (staging / "x").write_text("x")
        assert not (tmp_path / "a").exists()
    assert everything(tmp_path) == ["a", "a/b", "a/b/x"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("replace", [(), ("kept",)])
def test_a_failure_leaves_everything_as_it_was(
    tmp_path: Path, failure: type[BaseException], replace: tuple[str, ...]
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "kept").write_text("kept")
    target = tmp_path / "old" if replace else tmp_path / "a" / "b"

    def fail() -> None:
        with new_folder(target, replace=replace) as staging:
            (staging / "x").write_text("x")
            raise failure

    with pytest.raises(failure):
        fail()
    assert everything(tmp_path) == ["old", "old/kept"]


def test_an_empty_folder_is_used_and_a_full_one_only_on_demand(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with new_folder(target) as staging:
        (staging / "first").write_text("1")
    with pytest.raises(FolderExists, match="not empty"), new_folder(target):
        pass
    with new_folder(target, replace=("first",)) as staging:
        (staging / "second").write_text("2")
        assert (target / "first").exists()
    assert everything(tmp_path) == ["out", "out/second"]
    with (
        pytest.raises(BadInput, match="nothing shows that sigprune wrote it"),
        new_folder(target, replace=("first",)),
    ):
        pass
    assert everything(tmp_path) == ["out", "out/second"]


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    for target in (tmp_path / "out", tmp_path / "out" / "below", tmp_path / ("x" * 300)):
        message = r"found a file|no folder can be written there"
        with pytest.raises(BadInput, match=message), new_folder(target, replace=("out",)):
            pass
    assert (tmp_path / "out").read_text() == "mine"
    assert everything(tmp_path) == ["out"]


def test_some_folders_stay_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder and a mount point cannot be renamed or must not be; a link stays a link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with new_folder(tmp_path / "link") as staging:
        (staging / "a").write_text("a")
    node = (tmp_path / "real").stat().st_ino
    with monkeypatch.context() as patched:
        patched.setattr(os.path, "ismount", lambda path: Path(path).name == "real")
        with new_folder(tmp_path / "link", replace=("a",)) as staging:
            (staging / "a").write_text("new")
    monkeypatch.chdir(tmp_path / "real")
    with new_folder(".", replace=("a",)) as staging:
        (staging / "b").mkdir()
        (staging / "b" / "c").write_text("c")
    assert Path.cwd().stat().st_ino == node
    assert everything(tmp_path) == ["link", "real", "real/b", "real/b/c"]
    assert (tmp_path / "link").is_symlink()


def test_who_may_read_a_folder_does_not_change(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o750)
    for name in ("first", "second"):
        with new_folder(tmp_path / "out", replace=("first",)) as staging:
            (staging / name).write_text(name)
        assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert everything(tmp_path) == ["out", "out/second"]


@pytest.mark.skipif(sys.platform != "linux", reason="folders are exchanged on Linux alone")
def test_a_folder_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks, at any moment, finds all of the old files or all of the new ones."""
    target = tmp_path / "out"
    with new_folder(target) as staging:
        (staging / "mark").write_text("old")
    renaming = Path.rename
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("files were moved one by one"))
    with new_folder(target, replace=("mark",)) as staging:
        (staging / "mark").write_text("new")
        (staging / "more").write_text("new")
    monkeypatch.setattr(Path, "rename", renaming)
    assert everything(tmp_path) == ["out", "out/mark", "out/more"]
    assert (target / "mark").read_text() == "new"


@pytest.mark.parametrize("existing", [False, True])
def test_without_exchanging_files_are_moved_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, existing: bool
) -> None:
    monkeypatch.setattr(folders, "exchange", lambda *_: False)
    (tmp_path / "out").mkdir()
    if existing:
        (tmp_path / "out" / "mark").write_text("old")
    with new_folder(tmp_path / "out", replace=("mark",)) as staging:
        (staging / "new").write_text("new")
    assert everything(tmp_path) == ["out", "out/new"]


def test_a_move_that_fails_midway_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out" / "figures").mkdir(parents=True)
    (tmp_path / "out" / "figures" / "old").write_text("old")
    (tmp_path / "out" / "mark").write_text("old")
    monkeypatch.setattr(folders, "exchange", lambda *_: False)
    rename, calls = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 4:
            raise OSError("no space left on device")
        return rename(self, target)

    def attempt() -> None:
        with new_folder(tmp_path / "out", replace=("mark",)) as staging:
            (staging / "figures").mkdir()
            (staging / "figures" / "new").write_text("new")
            (staging / "mark").write_text("new")
            monkeypatch.setattr(Path, "rename", failing)

    with pytest.raises(OSError, match="no space"):
        attempt()
    assert everything(tmp_path) == ["out", "out/figures", "out/figures/old", "out/mark"]
    assert (tmp_path / "out" / "mark").read_text() == "old"


def test_a_target_filled_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def race() -> None:
        with new_folder(target) as staging:
            (staging / "x").write_text("x")
            target.mkdir()
            (target / "theirs").write_text("theirs")

    with pytest.raises(FolderExists):
        race()
    assert everything(tmp_path) == ["out", "out/theirs"]
