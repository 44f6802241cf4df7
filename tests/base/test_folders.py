"""New folders appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from sigprune.base.errors import FolderExists
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
@pytest.mark.parametrize("replace", [False, True])
def test_a_failure_leaves_everything_as_it_was(
    tmp_path: Path, failure: type[BaseException], replace: bool
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
    with new_folder(target, replace=True) as staging:
        (staging / "second").write_text("2")
        assert (target / "first").exists()
    assert everything(tmp_path) == ["out", "out/second"]


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FolderExists, match="found a file"), new_folder(tmp_path / "out", replace=True):
        pass
    assert (tmp_path / "out").read_text() == "mine"


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
