"""What is printed of somebody's file is shown, never obeyed."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sigprune.base.printing import printable
from sigprune.cli import main
from sigprune.families.codecs import codecs
from sigprune.verbs.writing import PackedWriter

HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b1A\u202egpj\r[red]x[/red]\nverified, every bit: 9 masked tensors"


@given(st.text(st.characters(codec=None)))
def test_escapes_are_those_of_json(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    bare = shown.replace('"', '\\"') if "\\" not in text else None
    if bare is not None:
        assert json.loads(f'"{bare}"') == text
    assert printable(text, "\n").count("\n") == text.count("\n")


def written(folder: Path, tensor: torch.Tensor) -> Path:
    """A packed file whose every text is hostile; it is damaged if the tensor is not that of its mask."""
    provenance = {HOSTILE: HOSTILE, "versions": {HOSTILE: HOSTILE}}
    writer = PackedWriter(folder, HOSTILE, HOSTILE, {}, provenance, codecs.choose("bitmask"))
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
    words = ["inspect", str(written(tmp_path, torch.eye(4))), option]
    assert main([word for word in words if word]) == 0
    printed = capsys.readouterr().out
    assert odd(printed) == {"\n"}
    assert "\\u001b[2J" in printed
    claims = [line for line in printed.splitlines() if line.startswith("verified, every bit")]
    assert len(claims) == (option == "--verify")
    if option == "--json":
        assert json.loads(printed)["architecture"] == HOSTILE


def test_errors_escape_what_a_file_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--verify", str(written(tmp_path, torch.ones(4, 4)))]) == 2
    printed = capsys.readouterr().err
    assert "damaged" in printed
    assert all(line.startswith("error: ") for line in printed.splitlines())
    assert odd(printed) == {"\n"}
