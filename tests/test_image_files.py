"""A saved folder classifies image files: the library's own transform makes the inputs that the run saw."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor, nn

from sigprune.base.errors import CheckpointError
from sigprune.base.registry import JsonValue
from sigprune.checkpoint.save import save
from sigprune.experiment.runner import run
from sigprune.experiment.setup import Setting, open_setting
from sigprune.families.adapters._image_files import normalisation_in
from sigprune.families.datasets import Data
from sigprune.families.datasets._shared import standardise_pixels
from sigprune.families.datasets.digits import _test_rows
from sigprune.recipe.recipe import Recipe
from sigprune.report.loading_examples import HERE
from sigprune.report.model_card import card
from sigprune.training.loop import evaluate
from sigprune.values.mask import Mask
from sigprune.values.preprocessing import Normalisation, output_labels

VIT: dict[str, JsonValue] = {
    "image_size": 12, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32,
}  # fmt: skip
MODES = {1: "L", 3: "RGB"}
MODELS = {
    "timm": ("timm:test_resnet", "in_chans", {}, 24),
    "transformers": ("transformers:vit", "num_channels", VIT, None),
}


def recipe_of(library: str, channels: int, **model: JsonValue) -> Recipe:
    """One epoch on the digits, resized."""
    ref, key, args, size = MODELS[library]
    return Recipe.model_validate({
        "model": {"ref": ref, "args": {**args, key: channels}, **model},
        "data": {"source": "digits", "size": size},
        "measure": {"examples": 2},
        "prune": {"sparsity": 0.5, "batches": 1},
        "train": {"epochs": 1},
        "baselines": [],
    })


def written(setting: Setting, folder: Path) -> Path:
    """The model as it is, saved as a run saves it."""
    save(folder, setting.view, Mask({}), preprocessing=setting.preprocessing)
    return folder


def timm_outputs(folder: Path, images: Sequence[Image.Image]) -> Tensor:
    """Logits by timm alone: its factory, its resolver, its transform."""
    import timm
    from timm.data import create_transform, resolve_data_config

    model = cast("nn.Module", timm.create_model(f"local-dir:{folder}", pretrained=True)).eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    with torch.no_grad():
        return model(torch.stack([transform(image) for image in images]))


def transformers_outputs(folder: Path, images: Sequence[Image.Image]) -> Tensor:
    """Logits by transformers alone: its image processor and its model."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        return model(**processor(list(images), return_tensors="pt")).logits


OUTPUTS: dict[str, Callable[[Path, Sequence[Image.Image]], Tensor]] = {
    "timm": timm_outputs,
    "transformers": transformers_outputs,
}


def right(outputs: Tensor, labels: Tensor) -> float:
    """The accuracy."""
    return int((outputs.argmax(1) == labels).count_nonzero()) / len(labels)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Image.Image], Tensor]:
    """The test digits read from PNG files of scikit-learn's own numbers (0 to 16), and their labels."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    rows = np.flatnonzero(_test_rows(torch.from_numpy(labels)).numpy())
    for row in rows:
        eight_bit = np.round(images[row].reshape(8, 8) / 16 * 255).astype(np.uint8)
        Image.fromarray(eight_bit).save(folder / f"{row}.png")
    return [Image.open(folder / f"{row}.png") for row in rows], torch.from_numpy(labels[rows])


def of_files_and_of_the_run(setting, library, channels, images, folder):
    """Outputs for image files by the library's own transform, those of the run's view, and its test split."""
    outputs = OUTPUTS[library](written(setting, folder), [one.convert(MODES[channels]) for one in images])
    test = setting.test()
    assert test is not None
    with torch.no_grad():
        expected = setting.view.using("eval").forward({}, setting.view.read(test[0][:]))
    return outputs, expected, test


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("library", MODELS)
def test_the_library_alone_answers_image_files_as_the_run_did(library, channels, digits, tmp_path):
    setting = open_setting(recipe_of(library, channels))
    images, labels = digits
    outputs, expected, test = of_files_and_of_the_run(setting, library, channels, images, tmp_path / "run")
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(outputs.argmax(1), expected.argmax(1))
    assert right(outputs, labels) == evaluate(setting.view.using("eval"), test)["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("library", MODELS)
def test_a_finished_run_is_as_accurate_on_files_as_its_report_says(
    library, channels, digits, tmp_path, capsys
):
    report = run(recipe_of(library, channels), tmp_path / "run")
    images, labels = digits
    outputs = OUTPUTS[library](tmp_path / "run", [one.convert(MODES[channels]) for one in images])
    assert right(outputs, labels) == report.test_accuracy
    # and the example in the card names the class
    images[0].save(tmp_path / "image.png")
    (code,) = [b for b in re.findall(r"```python\n(.*?)```", card(report), re.DOTALL) if "Image.open" in b]
    code = code.replace(HERE, str(tmp_path / "run")).replace("image.png", str(tmp_path / "image.png"))
    exec(code, {})
    assert capsys.readouterr().out.split()[-1] == str(int(outputs[0].argmax()))


def photos(height: int, width: int) -> tuple[Data, list[Image.Image]]:
    """Which of two colour photos a patch is from; the test patches also as images."""
    kinds = load_sample_images().images
    patches = [
        torch.from_numpy(photo[y : y + height, x : x + width].copy()).permute(2, 0, 1)
        for photo in kinds
        for y in range(0, 360, 60)
        for x in range(0, 560, 80)
    ]
    pixels, labels = torch.stack(patches), torch.arange(len(patches)) // (len(patches) // 2)
    even = torch.arange(len(patches)) % 2 == 0
    (train, test), normalisation = standardise_pixels(pixels[even], pixels[~even])
    data = Data((train, labels[even]), (test, labels[~even]), ("china", "flower"), "photos", normalisation)
    return data, [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in pixels[~even]]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("library", MODELS)
def test_colour_images_of_any_shape_are_squashed_and_turned_grey_alike(
    library, channels, tmp_path, monkeypatch
):
    data, images = photos(50, 71)  # Pillow and torch differ by one level in some pixels here
    monkeypatch.setattr("sigprune.families.datasets.digits.load", lambda: data)
    setting = open_setting(recipe_of(library, channels))
    outputs, expected, _ = of_files_and_of_the_run(setting, library, channels, images, tmp_path / "run")
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("library", MODELS)
def test_every_output_has_a_name(library, tmp_path):
    key = {"timm": "num_classes", "transformers": "num_labels"}[library]
    recipe = recipe_of(library, 1)
    args = {**recipe.model.args, key: 13}
    setting = open_setting(
        recipe.model_copy(update={"model": recipe.model.model_copy(update={"args": args})})
    )
    (finding,) = setting.findings()
    assert not finding.ok
    assert "leave out the number of classes" in finding.remedy
    config = json.loads((written(setting, tmp_path / "run") / "config.json").read_text())
    names = [*(str(c) for c in range(10)), "unused 10", "unused 11", "unused 12"]
    if library == "timm":
        assert config["label_names"] == names
        assert config["num_classes"] == 13
    else:
        assert config["id2label"] == {str(number): name for number, name in enumerate(names)}
        assert config["label2id"] == {name: number for number, name in enumerate(names)}


def test_equal_class_names_are_told_apart() -> None:
    assert output_labels(("a", "a", "a (1)", "unused 4"), 5) == (
        "a",
        "a (1)",
        "a (1) (2)",
        "unused 4",
        "unused 4 (4)",
    )


def test_noise_has_no_image_files(tmp_path: Path) -> None:
    recipe = Recipe.model_validate({
        "model": {"ref": "timm:test_resnet"},
        "data": {"source": {"name": "noise", "examples": 8}, "size": 24},
    })
    assert open_setting(recipe).preprocessing is None


@pytest.mark.parametrize("library", MODELS)
def test_pretrained_weights_keep_the_normalisation_that_they_were_trained_with(library, digits, tmp_path):
    """Opened again from a folder: what the folder says of its images holds, not the data's statistics."""
    setting = open_setting(recipe_of(library, 3))
    assert setting.preprocessing is not None
    own = Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    first = tmp_path / "first"
    save(first, setting.view, Mask({}), preprocessing=type(setting.preprocessing)(
        setting.preprocessing.size, own, setting.preprocessing.labels
    ))  # fmt: skip
    recipe = Recipe.model_validate({
        "model": {"ref": str(first), "pretrained": True},
        "data": {"source": "digits", "size": MODELS[library][3]},
        "init": {"method": None},
        "prune": {"sparsity": 0.5, "batches": 1},
    })
    again = open_setting(recipe)
    assert again.preprocessing is not None
    assert again.preprocessing.normalisation == own
    outputs = OUTPUTS[library](written(again, tmp_path / "again"), [one.convert("RGB") for one in digits[0]])
    test = again.test()
    assert test is not None
    with torch.no_grad():
        expected = again.view.using("eval").forward({}, again.view.read(test[0][:]))
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)


def test_timm_in_transformers_has_timms_transform(digits, tmp_path):
    recipe = Recipe.model_validate({
        "model": {"ref": "transformers:timm_wrapper", "args": {
            "architecture": "test_resnet", "task": "image-classification",
        }},
        "data": {"source": "digits", "size": 24},
        "prune": {"sparsity": 0.5, "batches": 1},
    })  # fmt: skip
    setting = open_setting(recipe)
    outputs = transformers_outputs(
        written(setting, tmp_path / "run"), [one.convert("RGB") for one in digits[0][:20]]
    )
    test = setting.test()
    assert test is not None
    with torch.no_grad():
        expected = setting.view.using("eval").forward({}, setting.view.read(test[0][:20]))
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON"),
        (json.dumps({"image_mean": [0.5], "image_std": [0.0]}), "the second positive"),
        (json.dumps({"image_mean": [0.5, 0.5], "image_std": [0.5]}), "as many numbers"),
        (json.dumps({"image_mean": "half", "image_std": [0.5]}), "got 'half'"),
        (json.dumps({"image_mean": [0.5], "image_std": [0.5], "more": [0] * 2**21}), "at most"),
    ],
    ids=["no JSON", "zero", "lengths", "text", "large"],
)
def test_a_damaged_processor_is_not_passed_over(text, message, tmp_path):
    """The statistics of the data in its place are not what the weights were trained with."""
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        normalisation_in(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"do_resize": true}')
    assert normalisation_in(tmp_path) is None
