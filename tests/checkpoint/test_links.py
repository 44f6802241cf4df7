"""A folder comes from anybody: what it merely points at elsewhere is neither read, copied nor sent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from sigprune.base.errors import BadInput, CheckpointError
from sigprune.checkpoint.conversion import convert
from sigprune.checkpoint.inspection import inspect
from sigprune.checkpoint.prune_shards import prune_files
from sigprune.checkpoint.read import load, load_mask
from sigprune.checkpoint.save import save
from sigprune.format.names import DENSE, PACKED
from sigprune.hub.upload_plan import plan_push
from sigprune.models.opening import open_model
from sigprune.sources.local_files import file_in, files_in
from tests.checkpoint.test_checkpoint import LIBRARIES, pruned

SECRET = "a private key"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("links") / "saved"
    save(folder, *pruned(open_model("transformers:bert", args=LIBRARIES["transformers:bert"])))
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A checkpoint of its own, and a secret beside it."""
    (tmp_path / "secret.txt").write_text(SECRET)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "vocab.txt").write_text(SECRET)
    return shutil.copytree(saved, tmp_path / "x")


def dense(folder: Path) -> Path:
    (folder / PACKED).unlink()
    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization_config")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


OUT: dict[str, Callable[[Path], object]] = {
    "LICENSE": lambda path: path.symlink_to("../secret.txt"),
    "vocab.txt": lambda path: path.symlink_to(path.parent.parent / "secret.txt"),
    "NOTICE": lambda path: (path.symlink_to("b.txt"), (path.parent / "b.txt").symlink_to("../secret.txt")),
    "tokenizer.json": lambda path: path.symlink_to("tokenizer.json"),
    "merges.txt": lambda path: path.symlink_to("nothing.txt"),
    "1_Pooling": lambda path: path.symlink_to("../elsewhere"),
    "2_Dense": lambda path: path.symlink_to("."),
    "special.txt": os.mkfifo,
    "zero.txt": lambda path: path.symlink_to("/dev/zero"),
    "environ.txt": lambda path: path.symlink_to("/proc/self/environ"),
}  # fmt: skip


@pytest.mark.parametrize("name", OUT)
@pytest.mark.parametrize("verb", ["convert", "prune", "push", "inspect"])
def test_a_link_out_stays_behind_and_is_named(folder: Path, tmp_path: Path, name: str, verb: str) -> None:
    OUT[name](folder / name)
    (folder / "inside.txt").write_text("inside")
    (folder / "again.txt").symlink_to("inside.txt")
    if verb == "inspect":
        assert name not in inspect(folder)["files"]
    elif verb == "push":
        plan = plan_push(folder, "user/net")
        assert name not in plan.files
        assert plan.left_out[name]
        assert {"inside.txt", "again.txt"} < plan.files.keys()
    else:
        target = tmp_path / "y"
        if verb == "convert":
            done = convert(folder, target)
        else:
            done = prune_files(dense(folder), target, sparsity=0.5)
        (why,) = [line for line in done.left if line.startswith(f"{name} (")]
        assert any(said in why for said in ("link", "pipe"))
        assert not (target / name).exists()
        assert (target / "again.txt").read_text() == (target / "inside.txt").read_text() == "inside"
        assert not (target / "again.txt").is_symlink()
        texts = [path.read_bytes() for path in target.rglob("*") if path.is_file()]
        assert not any(SECRET.encode() in text for text in texts)


READ: dict[str, Callable[[Path], object]] = {
    "load": load,
    "load_mask": load_mask,
    "inspect": inspect,
    "verify": lambda folder: inspect(folder, verify=True),
    "push": lambda folder: plan_push(folder, "user/net"),
    "convert": lambda folder: convert(folder, folder.parent / "y"),
    "by shard": lambda folder: prune_files(folder, folder.parent / "y", sparsity=0.5),
    "open": lambda folder: open_model(str(folder)),
    "open pretrained": lambda folder: open_model(str(folder), pretrained=True),
}


@pytest.mark.parametrize("verb", READ)
@pytest.mark.parametrize("kind", ["out", "chain", "loop", "pipe"])
def test_what_has_to_be_read_is_refused_as_a_link(folder: Path, verb: str, kind: str) -> None:
    """The configuration, which every verb needs."""
    config = folder / "config.json"
    if verb == "by shard":
        dense(folder)
    config.rename(folder.parent / "other.json")
    if kind == "out":
        config.symlink_to("../other.json")
    elif kind == "chain":
        config.symlink_to("first.json")
        (folder / "first.json").symlink_to("../other.json")
    elif kind == "loop":
        config.symlink_to("first.json")
        (folder / "first.json").symlink_to("config.json")
    else:
        os.mkfifo(config)
    with pytest.raises(CheckpointError, match=r"config\.json: a (link|pipe)") as caught:
        READ[verb](folder)
    assert "\n" not in str(caught.value)
    assert not (folder.parent / "y").exists()


@pytest.mark.parametrize("name", [PACKED, DENSE, "README.md", "report.json"])
def test_weights_cards_and_reports_that_are_links_out(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "other").write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"{}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("../other")
    verbs = (
        ["push"] if name in {"README.md", "report.json"} else ["load", "inspect", "verify", "push", "convert"]
    )
    for verb in verbs:
        with pytest.raises(CheckpointError, match="a link out of its folder"):
            READ[verb](folder)
    if name == DENSE:
        with pytest.raises(BadInput, match="a link out of its folder"):
            open_model(str(folder), pretrained=True)


def test_the_cache_of_the_hub_is_followed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot is links to blobs, which may be links to blobs that repositories share."""
    cache = tmp_path / "hub"
    blobs, snapshot = cache / "models--user--net" / "blobs", cache / "models--user--net" / "snapshots" / "1"
    for place in (blobs, snapshot, cache / "blobs" / "ab"):
        place.mkdir(parents=True)
    (folder / "vocab.txt").write_text("words")
    for path in list(folder.iterdir()):
        shared = cache / "blobs" / "ab" / path.name
        path.rename(shared)
        (blobs / path.name).symlink_to(f"../../blobs/ab/{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    with pytest.raises(CheckpointError, match="a link out of its folder"):
        load(snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    assert load(snapshot).mask.kept
    assert (convert(snapshot, tmp_path / "y").left, (tmp_path / "y" / "vocab.txt").read_text()) == (
        (),
        "words",
    )
    assert "vocab.txt" in plan_push(snapshot, "user/net").files


def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to("x")
    assert load(tmp_path / "latest").mask == load(folder).mask
    assert files_in(tmp_path / "latest") == files_in(folder)
    assert file_in(tmp_path / "latest", "config.json") == tmp_path / "latest" / "config.json"
    assert file_in(folder, "none.json") is None
