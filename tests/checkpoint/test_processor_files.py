"""Tokenizer and processor stay with a model: copied from where it was opened, or given to ``save``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
    ViTImageProcessor,
)

from sigprune.checkpoint.save import save
from sigprune.models.opening import describe, open_model
from sigprune.values.mask import Mask
from tests.checkpoint.test_checkpoint import LIBRARIES

TEXT = "to be or not"


def tokenizer_of(words: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(["[UNK]", *words.split()])}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of transformers with a tokenizer, a processor, and files that are nobody's."""
    place = tmp_path / "source"
    open_model("transformers:bert", args=LIBRARIES["transformers:bert"]).save_pretrained(place)
    tokenizer_of(TEXT).save_pretrained(place)
    (place / "generation_config.json").write_text("{}")
    (place / "LICENSE").write_text("free")
    for name in ("notes.json", "code.py", "pytorch_model.bin"):
        (place / name).write_text("{}")
    return place


@pytest.mark.parametrize("way", ["sigprune", "transformers"])
def test_what_lay_beside_the_opened_model_lies_beside_the_saved_one(
    way: str, folder: Path, tmp_path: Path
) -> None:
    opened = (
        open_model(str(folder), pretrained=True)
        if way == "sigprune"
        else BertForMaskedLM.from_pretrained(folder)
    )
    facts = save(tmp_path / "saved", describe(opened), Mask({}))
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again(TEXT).input_ids == [1, 2, 3, 4]
    assert {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE"} <= facts.keys()
    assert not {"notes.json", "code.py", "pytorch_model.bin"} & facts.keys()


def test_a_given_tokenizer_and_processor_win(folder: Path, tmp_path: Path) -> None:
    view = describe(open_model(str(folder), pretrained=True))
    processor = ViTImageProcessor(size={"height": 7, "width": 9})
    save(tmp_path / "saved", view, Mask({}), tokenizer=tokenizer_of("not or be to"), processor=processor)
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(TEXT).input_ids == [4, 3, 2, 1]
    assert dict(AutoImageProcessor.from_pretrained(tmp_path / "saved").size) == {"height": 7, "width": 9}


def test_a_model_of_a_type_has_nothing_beside_it(tmp_path: Path) -> None:
    view = describe(open_model("transformers:bert", args=LIBRARIES["transformers:bert"]))
    assert save(tmp_path / "saved", view, Mask({})).keys() == {
        "config.json", "model.safetensors", "model.sparse.safetensors"
    }  # fmt: skip


def test_a_link_out_of_the_folder_is_not_copied_and_that_is_said(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    (folder / "merges.txt").symlink_to(secret)
    view = describe(open_model(str(folder), pretrained=True))
    with pytest.warns(UserWarning, match=r"merges\.txt: a link out of its folder.*pass them: save\("):
        facts = save(tmp_path / "saved", view, Mask({}))
    assert "merges.txt" not in facts


def test_a_name_that_is_neither_folder_nor_cached_is_left_alone(tmp_path: Path) -> None:
    """No request is sent for what may be a folder that has moved since."""
    model = open_model("transformers:bert", args=LIBRARIES["transformers:bert"])
    for name in ("gone/folder", "a b c", "x" * 300, "user/repo@main"):
        model.name_or_path = name
        save(tmp_path / name[:3].replace("/", "").replace(" ", ""), describe(model), Mask({}))


def test_the_cache_of_the_hub_gives_what_it_has(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = "0123456789" * 4
    repository = tmp_path / "cache" / "models--user--repo"
    (repository / "snapshots").mkdir(parents=True)
    folder.rename(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = open_model("transformers:bert", args=LIBRARIES["transformers:bert"])
    model.name_or_path = "user/repo"
    facts = save(tmp_path / "saved", describe(model), Mask({}))
    assert "tokenizer.json" in facts


def test_pruning_by_shard_writes_a_card_that_says_what_is_proved(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sigprune.cli.app import main

    out = tmp_path / "pruned"
    assert main(["prune", str(folder), "--by-shard", "--sparsity", "0.5", "--out", str(out), "--json"]) == 0
    text = (out / "README.md").read_text()
    assert "# bert, 50 % sparse" in text
    assert "the model of `config.json` was never run; it has the same: `names and shapes`" in text
    assert "score: `magnitude`" in text
    assert json.loads(capsys.readouterr().out)["folder"] == str(out)
    assert AutoTokenizer.from_pretrained(out)(TEXT).input_ids == [1, 2, 3, 4]
    assert torch.is_tensor(BertForMaskedLM.from_pretrained(out).cls.predictions.bias)
