"""Folders that version 0.1.0 wrote, whole: they keep loading, and compute what they computed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sigprune.checkpoint.conversion import convert
from sigprune.checkpoint.inspection import inspect
from sigprune.checkpoint.read import load
from sigprune.hub.upload_plan import plan_push

FOLDERS = Path(__file__).parents[1] / "fixtures" / "release-0.1.0"
NAMES = ("timm", "transformers", "shards")


def computed(model: nn.Module, name: str) -> Tensor:
    """Outputs at the input that ``outputs.json`` is of."""
    with torch.no_grad():
        if name == "timm":
            return model(torch.linspace(-1, 1, 1024).reshape(1, 1, 32, 32)).flatten()
        return model(torch.arange(8)[None]).logits.flatten()[:40]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_the_first_release_computes_what_it_did(name: str, tmp_path: Path) -> None:
    expected = torch.tensor(json.loads((FOLDERS / "outputs.json").read_text())[name])
    folder = tmp_path / "x"
    shutil.copytree(FOLDERS / name, folder)
    found = load(folder, verify=True)
    torch.testing.assert_close(computed(found.model, name), expected)
    assert found.mask.sparsity == pytest.approx(0.7, abs=0.01)
    assert inspect(folder, verify=True)["verified"]
    assert "config.json" in plan_push(folder, "user/x").files
    convert(folder, tmp_path / "dense", to="dense")
    convert(folder, tmp_path / "packed")
    assert load(tmp_path / "packed", verify=True).mask == found.mask
    torch.testing.assert_close(computed(load(tmp_path / "packed").model, name), expected)
