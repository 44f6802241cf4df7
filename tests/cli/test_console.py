"""What is printed of somebody's file is shown, never obeyed."""

from __future__ import annotations

import io
import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sigprune.base.escape import printable
from sigprune.base.registry import JsonValue
from sigprune.checkpoint.writers import PackedWriter
from sigprune.cli.app import main
from sigprune.cli.catalogue import list_rows
from sigprune.cli.console import print_rows
from sigprune.families.codecs import codecs
from sigprune.format.index import read_manifest
from sigprune.report.model_card import plain_card

HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b1A\u202egpj\r[red]x[/red]\nverified, every bit: 9 masked tensors"


@given(st.text(st.characters(codec=None)))
def test_escapes_are_those_of_json(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    bare = shown.replace('"', '\\"') if "\\" not in text else None
    if bare is not None:
        assert json.loads(f'"{bare}"') == text
    assert printable(text, "\n").count("\n") == text.count("\n")


def written(folder: Path, tensor: torch.Tensor, codec: str = "bitmask") -> Path:
    """A packed file whose every text is hostile; it is damaged if the tensor is not that of its mask."""
    provenance = {HOSTILE: HOSTILE, "versions": {HOSTILE: HOSTILE}, "pattern": {HOSTILE: HOSTILE}}
    codec = replace(codecs.choose("bitmask"), name=codec)
    writer = PackedWriter(folder, HOSTILE, HOSTILE, {}, provenance, codec)
    writer.add(HOSTILE, tensor, torch.eye(4, dtype=torch.bool))
    writer.close()
    return folder


def odd(text: str) -> set[str]:
    """Signs that do something, or cannot be printed."""
    return {sign for sign in text if unicodedata.category(sign)[0] == "C"}


@pytest.mark.parametrize("option", ["", "--verify", "--json"])
def test_inspect_escapes_what_a_file_says(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = "bitmask" if option == "--verify" else HOSTILE
    words = ["inspect", str(written(tmp_path, torch.eye(4), codec)), option]
    assert main([word for word in words if word]) == 0
    printed = capsys.readouterr().out
    assert odd(printed) == {"\n"}
    assert "\\u001b[2J" in printed
    claims = [line for line in printed.splitlines() if line.startswith("verified, every bit")]
    assert len(claims) == (option == "--verify")
    if option == "--json":
        assert json.loads(printed)["architecture"] == HOSTILE


def test_a_recipe_is_printed_with_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text('model: {ref: "timm:test_vit\\u202e\\u2066"}\n')
    assert main(["validate", str(tmp_path / "recipe.yaml")]) == 0
    printed = capsys.readouterr().out
    assert odd(printed) == {"\n"}
    assert "test_vit\\u202e\\u2066" in printed


def test_a_card_has_no_headings_of_a_manifest(tmp_path: Path) -> None:
    evil = "x\n# Heading <img src=x>"
    provenance = {"pattern": {"name": evil, evil: evil}, "score": evil}
    writer = PackedWriter(tmp_path, "timm", "net", {}, provenance, codecs.choose("bitmask"))
    writer.add("weight", torch.eye(4), torch.eye(4, dtype=torch.bool))
    writer.close()
    card = plain_card(read_manifest(tmp_path))
    assert "\n# Heading" not in card
    assert card.count("Heading") == card.count("`x # Heading <img src=x>`") == 4


def test_errors_escape_what_a_file_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--verify", str(written(tmp_path, torch.ones(4, 4)))]) == 2
    printed = capsys.readouterr().err
    assert "damaged" in printed
    assert all(line.startswith("error: ") for line in printed.splitlines())
    assert odd(printed) == {"\n"}


def words_of(rows: list[dict[str, JsonValue]]) -> set[str]:
    return {word for row in rows for value in row.values() for word in str(value).split()}


@pytest.mark.parametrize("family", ["scores", "repairs", "codecs", "patterns", "datasets"])
@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_list_breaks_no_word_and_stays_within_the_width(family: str, width: int) -> None:
    rows = [
        {k: ", ".join(v) if isinstance(v, list) else v for k, v in row.items()}
        for row in list_rows(family, "*")
    ]
    text = io.StringIO()
    print_rows(Console(file=text, width=width, force_terminal=True, color_system=None), rows, prose=True)
    printed = text.getvalue()
    assert max(map(len, printed.splitlines())) <= width
    shown = {word.rstrip(":") for word in printed.split()}
    assert {word.rstrip(":") for word in words_of(rows) if word != "None"} <= shown


def test_columns_get_the_room_that_makes_the_rows_low() -> None:
    rows: list[dict[str, JsonValue]] = [{"name": "a", "text": "word " * 40, "short": "one two"}]
    text = io.StringIO()
    print_rows(Console(file=text, width=60, force_terminal=True, color_system=None), rows)
    assert len(text.getvalue().splitlines()) <= 7  # a head, a line, and 200 letters in 47 columns
    name: list[dict[str, JsonValue]] = [{"weights": "y" * 100, "count": 3}]
    print_rows(Console(file=text, width=60, force_terminal=True, color_system=None), name)
    assert "".join(text.getvalue().split()).count("y") == 100, "what fits nowhere is folded, not cut"
