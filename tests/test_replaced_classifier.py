"""A classifier that is not that of the pretrained weights: terminal, report and card say so, and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from sigprune.cli.app import main
from sigprune.families.adapters import adapters
from sigprune.init.policy import treatments
from sigprune.models.opening import describe, open_model
from sigprune.report.serialize import part_records
from sigprune.values.origin import replaced_in
from tests.checkpoint.test_checkpoint import LIBRARIES

VIT = LIBRARIES["transformers:vit"]


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Pretrained weights with so many classes."""
    library, classes = request.param
    args = {"num_classes": classes} if library == "timm" else {**VIT, "num_labels": classes}
    model = open_model("timm:test_resnet" if library == "timm" else "transformers:vit", args=args)
    adapters.get(library).write_config(model, tmp_path)
    save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


WHY = "the pretrained weights have 7 classes, and 10 were asked for"


@pytest.mark.parametrize(
    "folder",
    [("transformers", 7), pytest.param(("transformers", 10), marks=pytest.mark.slow)],
    indirect=True,
)
def test_a_run_says_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--pretrained", "--epochs", "0", "--quiet", "--score", "random"]
    for setting in ("init.method=null", "isometry=null", "measure.examples=1", "baselines=[]"):
        words += ["--set", setting]
    assert main(["prune", str(folder), *words, "--out", str(folder / "out")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    rows = json.loads((folder / "out" / "report.json").read_text())["init"]
    card = (folder / "out" / "README.md").read_text()
    kept = [row["part"] for row in rows if row["does"] == "kept"]
    if open_model(str(folder)).config.num_labels == 10:
        assert "heads" in kept
        assert "replaced" not in printed + card
    else:
        assert "heads" not in kept
        (row,) = [row for row in rows if row["part"] == "replaced classifier"]
        assert (row["tensors"], row["does"], row["reason"]) == (2, "drawn afresh", WHY)
        assert f"replaced classifier: 2 tensors drawn afresh; {WHY}" in printed
        assert f"| replaced classifier | 2 | drawn afresh | {WHY} |" in card


@pytest.mark.parametrize("folder", [("timm", 7)], indirect=True)
def test_timm_says_it(folder: Path) -> None:
    model = open_model(str(folder), pretrained=True, args={"num_classes": 10})
    found = replaced_in(model)
    assert (set(found.names), found.reason) == ({"fc.weight", "fc.bias"}, WHY)
    assert replaced_in(open_model(str(folder), pretrained=True)) is None
    view = describe(model)
    kept = part_records(view, treatments(view, None), found)
    assert [row.tensors for row in kept if row.part == "replaced classifier"] == [2]
    assert "heads" not in [row.part for row in kept]
    drawn = part_records(
        view, treatments(view, "orthogonal"), found
    )  # there the recipe says what it starts from
    assert "replaced classifier" not in [row.part for row in drawn]


@pytest.mark.parametrize("folder", [("transformers", 7)], indirect=True)
def test_what_the_weights_never_had(folder: Path) -> None:
    """Weights without any classifier, and a task that wants one."""
    model = open_model(str(folder), pretrained=True)
    assert replaced_in(model) is None
    base = open_model(str(folder), pretrained=True, args={"task": "base"})
    assert [name for name in replaced_in(base).names if "pooler" not in name] == []
    adapters.get("transformers").write_config(base, folder)
    own = load_file(folder / "model.safetensors")
    inner = {name.removeprefix("vit."): t for name, t in own.items() if name.startswith("vit.")}
    save_file(inner, folder / "model.safetensors", {"format": "pt"})
    found = replaced_in(open_model(str(folder), pretrained=True, args={"task": "image-classification"}))
    assert found.names == ("classifier.bias", "classifier.weight")
    assert found.reason == "the pretrained weights are those of ViTModel, without them"
