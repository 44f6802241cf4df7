"""What stands beside the weights: settings travel, the rest is named, and nothing copied is untrue."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from sigprune.checkpoint.conversion import convert
from sigprune.checkpoint.prune_shards import prune_files
from sigprune.checkpoint.save import save
from sigprune.checkpoint.sidecar_files import SMALL
from sigprune.format.names import DENSE, PACKED
from sigprune.models.opening import open_model
from sigprune.report.model_card import card
from sigprune.report.record import Report
from tests.checkpoint.test_checkpoint import LIBRARIES, pruned
from tests.support.reports import make_data

TRAVELS = {
    "1_Pooling/config.json", "modules.json", "vocab.txt", "LICENSE", "a/b/merges.txt", "report.json",
    "recipe.yaml",
}  # fmt: skip
STAYS = {
    "README.md", "1_Pooling/pytorch_model.bin", "onnx/model.onnx", "modeling.py", "a/adapter.safetensors",
    "a/vocabulary.txt", "figures/loss.png", "model.safetensors.index.fp16.json",
}  # fmt: skip
HIDDEN = {".gitattributes", ".cache/x.json"}


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A checkpoint among other things; its report is not one of ours."""
    model = open_model("transformers:bert", args=LIBRARIES["transformers:bert"])
    save(tmp_path / "x", *pruned(model))
    for name in TRAVELS | STAYS | HIDDEN:
        path = tmp_path / "x" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[]")
    (tmp_path / "x" / "a" / "vocabulary.txt").write_bytes(bytes(SMALL + 1))
    return tmp_path / "x"


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_small_texts_travel_and_the_rest_is_named(crowded: Path, tmp_path: Path) -> None:
    done = convert(crowded, tmp_path / "y")
    assert everything(tmp_path / "y") == TRAVELS | {"config.json", PACKED} == done.files.keys()
    assert set(done.left) == STAYS
    convert(crowded, tmp_path / "dense", to="dense")
    done = prune_files(tmp_path / "dense", tmp_path / "z", sparsity=0.5)
    assert everything(tmp_path / "z") == TRAVELS | {"config.json", DENSE, PACKED} == done.files.keys()


def test_a_run_keeps_its_report_and_figures_while_its_weights_are_the_same(tmp_path: Path) -> None:
    model = open_model("transformers:bert", args=LIBRARIES["transformers:bert"])
    files = save(tmp_path / "x", *pruned(model))
    report = Report({**make_data(), "files": files})
    (tmp_path / "x" / "figures").mkdir()
    for name, text in {
        "report.json": report.to_json(),
        "README.md": card(report),
        "recipe.yaml": "name: x",
        "figures/sparsity.png": "",
    }.items():
        (tmp_path / "x" / name).write_text(text)
    own = {"report.json", "recipe.yaml", "figures/sparsity.png"}
    done = convert(tmp_path / "x", tmp_path / "compact", codec="compact")
    assert own < done.files.keys()
    assert done.left == ("README.md",)
    moved = Report.read(tmp_path / "compact")
    assert {**moved.data, "files": None} == {**report.data, "files": None}
    assert moved.to_json() == (tmp_path / "compact" / "report.json").read_text()
    table = moved.facts["files"]
    assert table.keys() == {"config.json", PACKED}
    for name, facts in table.items():
        content = (tmp_path / "compact" / name).read_bytes()
        assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert str(facts["sha256"])[:16] in card(moved)
    assert table[PACKED] != files[PACKED]
    convert(tmp_path / "compact", tmp_path / "dense", to="dense")
    assert json.loads((tmp_path / "dense" / "report.json").read_text())["files"][DENSE] == files[DENSE]
    done = prune_files(tmp_path / "dense", tmp_path / "other", sparsity=0.99)
    assert not own & done.files.keys()
    assert set(done.left) == own
