"""New folders appear whole or not at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from sigprune.base import atomic_dir, rename_exchange
from sigprune.base.atomic_dir import new_folder
from sigprune.base.errors import BadInput, FolderExists


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


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="folders are exchanged on Linux alone")


def replaced(folder: Path) -> bool:
    """Replace a folder that holds ``mark``; whether it is another one afterwards."""
    (folder / "mark").write_text("old")
    node = folder.stat().st_ino
    with new_folder(folder, replace=("mark",)) as staging:
        (staging / "mark").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["mark"]
    assert (folder / "mark").read_text() == "new"
    return folder.stat().st_ino != node


@LINUX
def test_some_folders_stay_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder and mount points cannot be renamed or must not be; a link stays a link."""
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to("real")
    assert replaced(link)
    assert link.is_symlink()
    assert everything(tmp_path) == ["link", "real", "real/mark"]
    with monkeypatch.context() as patched:
        patched.setattr(rename_exchange, "_mounts", lambda: [Path("/"), real.resolve()])
        assert not replaced(link)
    (real / "below").mkdir()
    with monkeypatch.context() as patched:
        patched.chdir(real / "below")
        assert not rename_exchange.exchangeable(real)
        patched.chdir(real)
        assert not replaced(Path())
    (real / "below").mkdir()
    with monkeypatch.context() as patched:
        patched.chdir(real / "below")
        (real / "below").rmdir()
        assert not replaced(link)
    assert replaced(link)


@LINUX
def test_mount_points_are_those_of_the_system() -> None:
    """A mount of the same disk elsewhere, and names with blanks, are among them."""
    text = (
        b"36 35 98:0 /mnt1 /mnt\\0402 rw - ext3 /dev/root rw\n37 35 0:1 / / rw shared:1 - ext4 /dev/sda rw\n"
    )
    with patch.object(Path, "read_bytes", lambda _: text):
        assert rename_exchange._mounts() == [Path("/mnt 2"), Path("/")]
    assert Path("/proc") in rename_exchange._mounts()


@LINUX
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root gives folders away")
def test_files_belong_to_whom_they_belonged(tmp_path: Path) -> None:
    """A group's folder passes its group on to files that are made in it."""
    out = tmp_path / "out"
    out.mkdir()
    os.chown(out, 0, 1234)
    out.chmod(0o2770)
    assert not replaced(out)
    assert (out / "mark").stat().st_gid == 1234
    assert out.stat().st_mode & 0o7777 == 0o2770


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_write_protected_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mark").write_text("old")
    (tmp_path / "out").chmod(0o555)
    with (
        pytest.raises(BadInput, match="no folder can be written there"),
        new_folder(tmp_path / "out", replace=("mark",)),
    ):
        pass
    assert everything(tmp_path) == ["out", "out/mark"]


@LINUX
@pytest.mark.parametrize("first", ["theirs", "mark"])
def test_what_comes_at_the_last_moment_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Another process fills the folder after the last look at it."""
    out, exchange, calls = tmp_path / "out", atomic_dir.exchange, []
    out.mkdir()

    def late(one: Path, other: Path) -> bool:
        if not calls:
            (out / first).write_text("theirs")
        calls.append(one)
        return exchange(one, other)

    def attempt() -> None:
        with new_folder(out) as staging:
            (staging / "mark").write_text("mine")
            monkeypatch.setattr(atomic_dir, "exchange", late)

    with pytest.raises(FolderExists, match=r"/out: the folder exists and is not empty"):
        attempt()
    assert everything(tmp_path) == ["out", f"out/{first}"]
    assert (out / first).read_text() == "theirs"
    assert len(calls) == 2


@LINUX
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
    monkeypatch.setattr(atomic_dir, "exchange", lambda *_: False)
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
    monkeypatch.setattr(atomic_dir, "exchange", lambda *_: False)
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
