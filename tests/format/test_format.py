"""The page of the format and the code say the same: a reader made from the page alone agrees with ours."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sigprune.base.bits import as_integers
from sigprune.checkpoint.read import load
from sigprune.checkpoint.save import save
from sigprune.families.codecs import codecs
from sigprune.format.names import PACKED, PACKED_INDEX, packed_shard
from sigprune.models.opening import describe, open_model
from sigprune.pruning.choose import apply_
from sigprune.values.mask import Mask
from tests.checkpoint.test_checkpoint import LIBRARIES, pruned
from tests.reference.packed import read
from tests.support.levels import by_rows_and_columns, levels_at_any_price

PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("codec", ["bitmask", "two_four", "compact"])
@pytest.mark.parametrize("most", [10**9, 4000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_reader_from_the_page_agrees(codec: str, most: int, dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = open_model("transformers:bert", args=LIBRARIES["transformers:bert"]).to(dtype)
    if codec == "two_four":
        view, mask = pruned(model, 0.5, pattern="n_m", allocation="uniform")
    else:
        view, mask = pruned(model, 0.6 if most == 4000 else 0.95)
    save(tmp_path / "x", view, mask, codec=codec, max_shard_bytes=most)
    found = read(tmp_path / "x")
    tied = load(tmp_path / "x").manifest.tied
    assert found.keys() == model.state_dict().keys() - tied.keys()
    for name, (words, keep) in found.items():
        own = as_integers(model.state_dict()[name]).reshape(-1).numpy()
        assert np.array_equal(words, own.view(words.dtype)), name
        assert (keep is None) == (name not in mask.keep)
        if keep is not None:
            assert np.array_equal(keep, mask.keep[name].reshape(-1).numpy())


def test_a_reader_from_the_page_agrees_on_levels(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.Conv2d(16, 40, 3))
    mask = Mask({
        name: by_rows_and_columns(tuple(p.shape)) for name, p in model.named_parameters() if p.dim() > 1
    })
    view = describe(model)
    apply_(view, mask)
    with levels_at_any_price():
        save(tmp_path / "x", view, mask, codec="compact")
    assert all(load_file(tmp_path / "x" / PACKED)[f"{name}_sparse_positions"][0] == 2 for name in mask.keep)
    for name, (words, keep) in read(tmp_path / "x").items():
        own = as_integers(model.state_dict()[name]).reshape(-1).numpy()
        assert np.array_equal(words, own.view(words.dtype)), name
        assert keep is None or np.array_equal(keep, mask.keep[name].reshape(-1).numpy())


def test_the_page_names_every_codec_part_and_file() -> None:
    for name in codecs.names():
        section = PAGE.partition(f"### `{name}`")[2].partition("###")[0]
        assert section, name
        for suffix in codecs.read(name).facts["SUFFIXES"].split():
            assert f"`{suffix}`" in section
    assert PACKED in PAGE
    assert PACKED_INDEX in PAGE
    assert re.search(re.escape(packed_shard(1, 1)).replace("00001\\.", "0000N\\."), PAGE)
