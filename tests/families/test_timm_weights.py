"""Weights of timm folders: all of them are loaded, or none; a configuration cannot talk timm out of that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sigprune.base.errors import BadInput
from sigprune.base.tensors import digest
from sigprune.families.adapters import adapters
from sigprune.models.opening import open_model

CLASSES = 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = adapters.get("timm").build("test_resnet", {"num_classes": CLASSES})
    for module in model.modules():  # statistics that no fresh model has
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
    adapters.get("timm").write_config(model, tmp_path)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    return tmp_path


def configure(folder: Path, change: Mapping[str, object]) -> None:
    path = folder / "config.json"
    old = json.loads(path.read_text())
    merged = {
        key: {**old.get(key, {}), **value} if isinstance(value, Mapping) else value
        for key, value in change.items()
    }
    path.write_text(json.dumps(old | merged))


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


LIES: Mapping[str, Mapping[str, object]] = {
    "classes": {"num_classes": 10, "model_args": {"num_classes": CLASSES}},
    "classes of the weights": {"pretrained_cfg": {"num_classes": 77}, "model_args": {"num_classes": CLASSES}},
    "custom_load": {"pretrained_cfg": {"custom_load": True}},
    "custom_load of the Hub": {"pretrained_cfg": {"custom_load": "hf", "hf_hub_id": "user/repo"}},
    "tensors in the configuration": {"pretrained_cfg": {"state_dict": {"x": 1}}},
    "another file": {"pretrained_cfg": {"file": "evil.pth", "url": "https://example.org/evil.pth"}},
    "classifier": {"pretrained_cfg": {"classifier": "layer1"}},
    "no classifier": {"pretrained_cfg": {"classifier": None}},
}
OTHERS: Mapping[str, Mapping[str, object]] = {
    "pretrained_strict": {"model_args": {"pretrained_strict": False}},
    "features_only": {"model_args": {"features_only": True}},
    "other classes": {"model_args": {"num_classes": 10}},
    "no classes": {"model_args": {"num_classes": 0}},
    "filter": {"model_args": {"pretrained_filter_fn": "x"}},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_fitting_file_is_loaded_whole_whatever_else_is_said(folder: Path, lie: str) -> None:
    configure(folder, LIES[lie])
    assert digest(open_model(str(folder), pretrained=True).state_dict()) == digest(weights(folder))


@pytest.mark.parametrize("lie", [*LIES, *OTHERS, "nothing"])
@pytest.mark.parametrize("args", [{}, {"num_classes": 3}, {"num_classes": CLASSES}])
def test_a_file_of_other_names_is_refused(folder: Path, lie: str, args: Mapping[str, int]) -> None:
    configure(folder, {**LIES, **OTHERS, "nothing": {}}[lie])
    save_file({f"x.{name}": t for name, t in weights(folder).items()}, folder / "model.safetensors")
    with pytest.raises(BadInput) as caught:
        open_model(str(folder), pretrained=True, args=args)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lost", ["conv1.0.weight", "bn1.running_mean", "fc.weight"])
@pytest.mark.parametrize("lie", [*LIES, *OTHERS])
def test_a_file_that_lacks_one_tensor_is_refused(folder: Path, lie: str, lost: str) -> None:
    configure(folder, {**LIES, **OTHERS}[lie])
    save_file({name: t for name, t in weights(folder).items() if name != lost}, folder / "model.safetensors")
    for args in ({}, {"num_classes": 3}):
        with pytest.raises(BadInput):
            open_model(str(folder), pretrained=True, args=args)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("lie", ["nothing", *LIES])
def test_only_a_classifier_that_is_asked_for_starts_afresh(folder: Path, lie: str, classes: int) -> None:
    configure(folder, LIES.get(lie, {}))
    try:
        model = open_model(str(folder), pretrained=True, args={"num_classes": classes})
    except BadInput:  # timm would draw what the configuration calls its classifier
        assert lie in {"classifier", "no classifier"}
        return
    own = weights(folder)
    rest = {name: t for name, t in model.state_dict().items() if not name.startswith("fc.")}
    assert digest(rest) == digest({name: t for name, t in own.items() if not name.startswith("fc.")})
    assert model.num_classes == classes
    if classes:
        assert tuple(model.state_dict()["fc.weight"].shape) == (classes, own["fc.weight"].shape[1])


def test_the_loader_of_a_class_is_not_taken(tmp_path: Path) -> None:
    """With custom_load timm calls VisionTransformer.load_pretrained, which reads archives of numpy."""
    model = adapters.get("timm").build("test_vit", {"num_classes": CLASSES})
    adapters.get("timm").write_config(model, tmp_path)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    configure(tmp_path, LIES["custom_load"])
    assert digest(open_model(str(tmp_path), pretrained=True).state_dict()) == digest(model.state_dict())


def test_tensors_that_timm_does_not_take_over_are_missed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever timm leaves as drawn beside a classifier of another size is not accepted."""
    create = timm.create_model

    def forgetful(*args: object, **options: object) -> nn.Module:
        model = create(*args, **options)
        if model.num_classes == 3:
            nn.init.normal_(model.layer1[0].conv1.weight)
        return model

    monkeypatch.setattr(timm, "create_model", forgetful)
    with pytest.raises(BadInput, match=r"layer1\.0\.conv1\.weight is not taken over"):
        open_model(str(folder), pretrained=True, args={"num_classes": 3})


def test_a_file_of_as_many_classes_as_were_read_in_its_configuration(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should timm read another number there, the weights would be loaded without their classifier."""
    monkeypatch.setattr(adapters.get("timm"), "_classes", lambda *_: CLASSES + 1)
    with pytest.raises(BadInput, match=f"expected {CLASSES + 1} classes, got {CLASSES}"):
        open_model(str(folder), pretrained=True)


def test_channels_and_sizes_are_adapted_as_ever(folder: Path) -> None:
    model = open_model(str(folder), pretrained=True, args={"in_chans": 1, "num_classes": 3})
    own, state = weights(folder), model.state_dict()
    torch.testing.assert_close(state["conv1.0.weight"], own["conv1.0.weight"].sum(1, keepdim=True))
    assert torch.equal(state["layer1.0.conv1.weight"], own["layer1.0.conv1.weight"])


def test_what_only_a_factory_of_timm_takes_is_a_parameter_too() -> None:
    plain, deep = (
        open_model("timm:mobilenetv3_small_050", args=args) for args in ({}, {"depth_multiplier": 2.0})
    )
    assert len(list(deep.modules())) > len(list(plain.modules()))
    with pytest.raises(BadInput, match="depth_multiplier: expected a number"):
        open_model("timm:mobilenetv3_small_050", args={"depth_multiplier": "../x"})
