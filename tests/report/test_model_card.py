"""Model cards: valid front matter, the figures, and nothing that the report does not say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sigprune.format.manifest import Entry, Manifest, Masked
from sigprune.report.model_card import card, metadata, plain_card
from sigprune.report.record import Report

Data = dict[str, object]


def front(text: str) -> dict[str, object]:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_front_matter_says_what_the_report_knows(report: Report) -> None:
    found = front(card(report))
    assert found == metadata(report)
    assert found["library_name"] == "timm"
    assert {"sigprune", "sparse", "pruning", "snip"} <= set(found["tags"])
    assert found["pipeline_tag"] == "image-classification"
    result = found["model-index"][0]["results"][0]
    assert result["metrics"][0]["value"] == 0.968
    assert result["dataset"]["name"] == "digits"
    assert not {"license", "base_model", "language"} & set(found)


def test_a_base_model_is_named_only_if_the_report_does(data: Data) -> None:
    data["model"]["base_model"] = "timm/test_vit.r160_in1k"
    assert front(card(Report(data)))["base_model"] == "timm/test_vit.r160_in1k"
    data["model"]["base_model"] = None
    assert "base_model" not in front(card(Report(data)))


PREPROCESSING = {
    "height": 24, "width": 32, "mean": [0.25], "std": [0.5], "normalisation": "data",
    "labels": ["cat", "dog", "unused 2"], "classes": 2,
}  # fmt: skip


@pytest.mark.parametrize("library", ["timm", "transformers", "torch"])
def test_a_card_says_how_an_image_file_becomes_an_input(data: Data, library: str) -> None:
    data["model"]["library"], data["preprocessing"] = library, PREPROCESSING
    text = card(Report(data))
    assert "A greyscale image of 8 bits, resized as a whole to 24 x 32 pixels" in text
    assert "minus 0.25, divided by 0.5: mean and deviation of the training data" in text
    assert "The 2 classes: cat, dog.\n" in text
    assert "- It has 3 outputs for 2 classes: the others stand for nothing.\n" in text
    code = [block for block in blocks(text, "python") if 'Image.open("image.png").convert("L")' in block]
    assert len(code) == (library != "torch")
    for block in code:
        compile(block, "card", "exec")
    assert 'convert("RGB")' not in text
    assert not [b for b in blocks(card(Report(data), dense=False), "python") if "Image.open" in b]


def test_a_card_names_twenty_classes_at_most(data: Data) -> None:
    names = [f"c{number}" for number in range(1000)]
    data["preprocessing"] = {
        **PREPROCESSING,
        "labels": names,
        "classes": 1000,
        "mean": [0.5] * 3,
        "std": [1.0] * 3,
    }
    text = card(Report(data))
    assert "The 1,000 classes: c0, c1, " in text
    assert ", c19 and 980 more.\n" in text
    assert "stand for nothing" not in text
    assert 'convert("RGB")' in text


def test_a_card_says_that_data_without_image_files_have_no_preprocessing(data: Data) -> None:
    assert "## Images" not in card(Report(data))  # a report of an earlier version
    data["preprocessing"] = None
    assert "what `config.json` says of it is the architecture's own" in card(Report(data)).replace(
        "What", "what"
    )


def test_noise_has_no_metrics(data: Data) -> None:
    data["recipe"]["data"]["source"] = {"name": "noise"}
    text = card(Report(data))
    assert not {"model-index", "metrics", "pipeline_tag", "datasets"} & set(front(text))
    assert "the accuracy means nothing" in text


def test_the_figures_are_linked(report: Report) -> None:
    text = card(report)
    assert re.findall(r"!\[[^\]]+\]\((.*?)\)", text) == list(report.figures)


def test_numbers_and_findings_are_shown(report: Report) -> None:
    text = card(report)
    assert "96.80 %" in text
    assert "97.50 %" in text
    assert "| after pruning | 0.004994 |" in text
    assert "∞ |" in text
    assert "| **warning** | dead_layers | fc\\|4 | 1 | -∞ to 0 | prune less, or another allocation |" in text
    assert "one seed" in text.lower()
    assert "as large as a dense file" in text


def test_the_distance_from_isometry_is_told_with_its_floor(data: Data) -> None:
    """A report of an earlier version does not know the floor."""
    told = "‖W Wᵀ - I‖: 9.5, then 1.5"
    assert f"{told}; no less than 0.5 is possible\n" in card(Report(data))
    del data["isometry"]["floor"]
    assert f"{told}\n" in card(Report(data))


def test_tables_are_rectangular(report: Report) -> None:
    for table in re.findall(r"(?:^\|.*\|\n)+", card(report), flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_the_recipe_is_in_the_card_and_complete(report: Report) -> None:
    (recipe,) = blocks(card(report), "yaml")
    assert yaml.safe_load(recipe) == report.facts["recipe"]
    assert list(yaml.safe_load(recipe))[:4] == ["name", "seed", "device", "model"]


@pytest.mark.parametrize(
    ("library", "args", "first"),
    [
        ("timm", {}, 'timm.create_model("local-dir:path/to/this/folder", pretrained=True)'),
        ("transformers", {}, 'AutoModelForImageClassification.from_pretrained("path/to/this/folder")'),
        ("transformers", {"task": "masked-lm"}, "AutoModelForMaskedLM.from_pretrained("),
        ("torch", {}, 'load_file("path/to/this/folder/model.safetensors")'),
    ],
)
def test_loading_examples(data: Data, library: str, args: Data, first: str) -> None:
    data["model"]["library"] = library
    data["recipe"]["model"]["args"] = args
    text = card(Report(data))
    codes = blocks(text, "python")
    assert first in codes[0]
    variant = [code for code in codes if 'variant="sparse"' in code]
    assert len(variant) == (library == "transformers")
    assert ('load("path/to/this/folder", into=model)' in codes[-2]) == (library == "torch")
    assert "hold(" in codes[-1]
    for code in codes:
        compile(code, "card", "exec")
    assert front(text)["library_name"] == ("sigprune" if library == "torch" else library)
    assert "path/to/this/folder" not in card(Report(data), repo="me/mine")
    assert all("me/mine" in code for code in blocks(card(Report(data), repo="me/mine"), "python")[:-1])
    packed = card(Report(data), repo="me/mine", dense=False)
    assert blocks(packed, "python")[0].count("sigprune") == 1
    assert 'load("me/mine"' in packed
    dense = card(Report(data), repo="me/mine", sparse=False)
    assert "sigprune import load" not in dense
    assert "variant=" not in dense


def test_equal_reports_give_equal_cards(data: Data, tmp_path: Path) -> None:
    report = Report(data)
    (tmp_path / "report.json").write_text(report.to_json(), encoding="utf-8")
    assert card(Report.read(tmp_path)) == card(report) == card(report.without_timing())


def test_a_run_without_training_or_test_split(data: Data) -> None:
    data |= {
        "training": {"epochs": []},
        "dense": None,
        "evaluation": {},
        "isometry": None,
        "findings": [],
        "signal": [],
    }
    data["recipe"] |= {"init": {"method": None}, "isometry": None}
    data["mask"]["layers"][2]["kept"] = 0
    data["model"]["gates_opened"] = ["a", "b"]
    text = card(Report(data))
    assert "not trained yet" in text
    assert "the weights that it was opened with" in text
    assert "Not measured." in text
    assert "2 gates" in text
    assert "Nothing is left of 1 layers, among them `fc3.weight`" in text
    assert "\n\n\n" not in text
    assert "$" not in text
    assert "model-index" not in front(text)


INSTALL = "`pip install sigprune`"


def plain(**said: object) -> str:
    """The card of a checkpoint without a report, whose provenance is this."""
    masked = Masked(2, "bitmask", "b", {"": "v", "_sparse_bits": "b"})
    entries = {"a": Entry((2, 3), "float32", "d", masked)}
    return plain_card(Manifest("timm", "test_vit", entries, {}, said), repo="me/mine")


def test_the_card_says_how_to_get_sigprune_before_the_first_block(report: Report) -> None:
    for text in (card(report), plain()):
        assert text.index(INSTALL) < text.index("```")
        assert text.count(INSTALL) == 1
    assert INSTALL not in card(report, sparse=False)


def test_a_card_without_a_report_tells_what_the_manifest_does() -> None:
    text = plain(score="magnitude", sparsity=0.5, seed=0, include=["*"], exclude=[], source="minilm")
    for line in ("score: `magnitude`", "sparsity asked for: 0.5", "weights from the folder: `minilm`"):
        assert f"\n- {line}\n" in text
    assert "What that costs in accuracy is not recorded here." in text
    assert "How the mask was found" not in text
    text = plain(mask_from="zeros", base_model="someone/net", revision="abc", versions={"torch": "2"})
    assert "\n- mask from: the zeros of the dense weights\n- weights from: `someone/net`\n" in text
    assert front(text)["base_model"] == "someone/net"
    assert "\n- mask from: `zeros/mask`\n" in plain(mask_from="zeros/mask")
    assert "\n- weights from the folder: `zeros`\n" in plain(mask_from="someone/net", source="zeros")


def test_a_card_without_a_report_says_what_is_not_known() -> None:
    assert "How it was made" not in plain()
    for text in (plain(), plain(note="mine"), plain(base_model="someone/net")):
        assert "How the mask was found and what it costs in accuracy is not recorded here." in text


def test_a_card_without_a_report_shows_the_recipe_of_the_run(report: Report) -> None:
    text = plain(recipe=report.facts["recipe"], recipe_digest="abc")
    (recipe,) = blocks(text, "yaml")
    assert yaml.safe_load(recipe) == report.facts["recipe"]
    assert "recipe digest: `abc`" in text
    assert "How the mask was found" not in text


def test_heads_that_stay_dense_are_named(data: Data) -> None:
    assert "stayed dense" not in card(Report(data))
    data["mask"]["dense_heads"] = ["head.weight"]
    assert "- `head.weight` stayed dense\n" in card(Report(data))
    data["recipe"]["prune"] = {**data["recipe"].get("prune", {}), "heads": "dense"}
    assert "`head.weight` stayed dense (as heads of pretrained networks do unless" in card(Report(data))


def test_a_card_without_a_report_tells_what_the_mask_emptied() -> None:
    entry = Entry((2, 4), "float32", "0" * 64, Masked(0, "bitmask", "0" * 64, {"": "0" * 64}))
    text = plain_card(Manifest("timm", "resnet18", {"fc.weight": entry}, {}))
    assert "- `warning: collapsed_weights is 1 (fc.weight), expected 0; keep some of each" in text
    said = {"findings": ["warning: open_path is 0 (from the input to the output), expected 1"]}
    assert "`warning: open_path is 0" in plain_card(Manifest("timm", "resnet18", {}, {}, said))
