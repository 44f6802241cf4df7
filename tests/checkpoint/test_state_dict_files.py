"""A state dict in a pickle becomes a folder on the user's word: tensors alone, and all of the model's."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sigprune.base.errors import BadInput
from sigprune.base.tensors import digest
from sigprune.checkpoint.conversion import convert_state_dict
from sigprune.checkpoint.read import load
from sigprune.checkpoint.state_dict_files import StateDictFile
from sigprune.cli.app import main
from sigprune.families.adapters import adapters
from sigprune.models.opening import describe, open_model
from sigprune.pruning.choose import apply_, prune
from tests.checkpoint.test_checkpoint import LIBRARIES

Wrap = Callable[[Mapping[str, Tensor]], object]
WRAPS: Mapping[str, tuple[Wrap, str]] = {
    "plain": (dict, ""),
    "ordered": (OrderedDict, ""),
    "state_dict": (
        lambda s: {"state_dict": dict(s), "epoch": 3, "optimizer": {"a": 1}},
        "left out: epoch, optimizer",
    ),
    "model": (lambda s: {"model": dict(s), "model_ema": dict(s)}, "those under 'model'; left out: model_ema"),
    "parallel": (lambda s: {f"module.{k}": v for k, v in s.items()}, "the prefix 'module.' of all names is"),
    "both": (lambda s: {"state_dict": {f"module._orig_mod.{k}": v for k, v in s.items()}}, "'_orig_mod.'"),
    "transposed": (lambda s: {k: v.t().contiguous().t() if v.dim() == 2 else v for k, v in s.items()}, ""),
}


def source(folder: Path, ref: str) -> tuple[Path, nn.Module]:
    """A folder with a configuration, and the model that somebody trained."""
    model = open_model(ref, args=LIBRARIES[ref], seed=1)
    folder.mkdir(exist_ok=True)
    adapters.get(ref.partition(":")[0]).write_config(model, folder)
    return folder, model


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_state_dict_becomes_a_folder_that_opens(tmp_path: Path, wrap: str, legacy: bool) -> None:
    folder, model = source(tmp_path / "x", "transformers:bert")
    make, note = WRAPS[wrap]
    file = tmp_path / "weights.bin"
    torch.save(make(model.state_dict()), file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(BadInput, match=r"`sigprune convert --weights FILE SOURCE NEW`"):
        open_model(str(folder), pretrained=True)
    done = convert_state_dict(file, folder, tmp_path / "y")
    assert set(done.files) == {"config.json", "model.safetensors"}
    assert note in " ".join(done.notes)
    assert digest(open_model(str(tmp_path / "y"), pretrained=True).state_dict()) == digest(model.state_dict())
    assert "quantization_config" not in json.loads((tmp_path / "y" / "config.json").read_text())


@pytest.mark.parametrize("ref", ["timm:test_resnet", "timm:test_vit"])
def test_a_name_will_do_where_there_is_no_folder(
    tmp_path: Path, ref: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = open_model(ref, seed=1)
    view = describe(model)
    apply_(view, mask := prune(view, sparsity=0.9, score="magnitude"))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "w.pth")
    words = ["convert", "--weights", str(tmp_path / "w.pth"), ref, str(tmp_path / "y"), "--to", "both"]
    assert main(words) == 0
    assert "w.pth: tensors are those under 'state_dict'" in " ".join(capsys.readouterr().out.split())
    for found in (open_model(str(tmp_path / "y"), pretrained=True), load(tmp_path / "y", verify=True).model):
        assert digest(found.state_dict()) == digest(model.state_dict())
    assert load(tmp_path / "y").mask.kept == mask.kept


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("PWNED"),))


def without(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(list(state.items())[1:])


BAD: Mapping[str, tuple[Wrap, str]] = {
    "code": (lambda s: {**s, "x": Evil()}, "only tensors are read, never other objects"),
    "nothing": (lambda _: {}, "expected tensors by name, got dict"),
    "a list": (lambda s: list(s.values()), "expected tensors by name, got list"),
    "numbers": (lambda s: {**s, "x": 1.0}, "x: expected a dense tensor, got float"),
    "sparse": (lambda s: {**s, "x": torch.eye(2).to_sparse()}, "w.pth: "),
    "lacking": (lambda s: without(dict(s)), "1 are missing (first conv1.0.weight), 0 are not the model's"),
    "more": (
        lambda s: {**s, "x": torch.zeros(1)},
        "0 are missing (first none), 1 are not the model's",
    ),
    "shape": (lambda s: {**s, "fc.weight": torch.zeros(3, 3)}, "fc.weight has the shape (3, 3)"),
    "other names": (lambda s: {f"x{i}": v for i, v in enumerate(s.values())}, "add --by-order"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_the_models_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, model = source(tmp_path / "x", "timm:test_resnet")
    make, message = BAD[what]
    torch.save(make(model.state_dict()), tmp_path / "w.pth")
    with pytest.raises(BadInput) as caught:
        convert_state_dict(tmp_path / "w.pth", folder, tmp_path / "y")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"x", "w.pth"}


def test_damaged_and_absent_files(tmp_path: Path) -> None:
    folder, model = source(tmp_path / "x", "timm:test_resnet")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    for data in (b"", b"x" * 100, content[: len(content) // 2]):
        (tmp_path / "w.pth").write_bytes(data)
        with pytest.raises(BadInput, match="cannot read it as a state dict"):
            convert_state_dict(tmp_path / "w.pth", folder, tmp_path / "y")
    with pytest.raises(BadInput, match="there is none"):
        convert_state_dict(tmp_path / "none.pth", folder, tmp_path / "y")
    assert main(["convert", str(folder), str(tmp_path / "y"), "--by-order"]) == 2
    with pytest.raises(BadInput, match="load the file into the model yourself"):
        convert_state_dict(tmp_path / "w.pth", "torch:torch.nn.Linear", tmp_path / "y")


def test_by_order_on_the_users_word(tmp_path: Path) -> None:
    folder, model = source(tmp_path / "x", "timm:test_resnet")
    state = model.state_dict()
    renamed = {f"_{i}.{name.rpartition('.')[2]}": t for i, (name, t) in enumerate(state.items())}
    torch.save(renamed, tmp_path / "w.pth")
    done = convert_state_dict(StateDictFile(tmp_path / "w.pth", by_order=True), folder, tmp_path / "y")
    assert f"{len(state)} of {len(state)} tensors are renamed by their order" in done.notes[0]
    assert digest(open_model(str(tmp_path / "y"), pretrained=True).state_dict()) == digest(state)
    for wrong in (
        dict(reversed(renamed.items())),
        {name.replace("mean", "x"): t for name, t in renamed.items()},
    ):
        torch.save(wrong, tmp_path / "w.pth")
        with pytest.raises(BadInput, match="by order"):
            convert_state_dict(StateDictFile(tmp_path / "w.pth", by_order=True), folder, tmp_path / "z")


def test_tied_copies_must_be_copies(tmp_path: Path) -> None:
    folder, model = source(tmp_path / "x", "transformers:bert")  # a masked language model ties its output
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    convert_state_dict(tmp_path / "w.pth", folder, tmp_path / "y")
    state["cls.predictions.decoder.weight"] += 1
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(BadInput, match="differ, and are one tensor in the model"):
        convert_state_dict(tmp_path / "w.pth", folder, tmp_path / "z")
