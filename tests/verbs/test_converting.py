"""Converting: nothing is lost between dense and packed, in one file or in many."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from sigprune.base.errors import BadInput, CheckpointError, FolderExists, MaskViolated
from sigprune.families.codecs import codecs
from sigprune.values.packed import PACKED, PACKED_INDEX
from sigprune.verbs.checkpoint import load, save
from sigprune.verbs.converting import convert, implied
from sigprune.verbs.files import DENSE, DENSE_INDEX
from sigprune.verbs.inspecting import inspect
from sigprune.verbs.opening import open_model
from tests.verbs.test_checkpoint import LIBRARIES, assert_same_bits, pruned


@pytest.fixture(scope="module", params=["timm:test_vit", "transformers:bert", "transformers:mixtral"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    model = open_model(request.param, args=LIBRARIES[request.param]).eval()
    folder = tmp_path_factory.mktemp("converting") / "x"
    save(folder, *pruned(model), extra={"recipe_digest": "abc"})
    return model, folder


@pytest.mark.parametrize("most", [10**9, 5000])
def test_there_and_back_again(made: tuple[nn.Module, Path], tmp_path: Path, most: int) -> None:
    model, folder = made
    before = load(folder)
    convert(folder, tmp_path / "compact", codec="compact", most=most)
    found = load(tmp_path / "compact", verify=True)
    assert_same_bits(found.model, model)
    assert found.mask == before.mask
    assert found.manifest.codecs == ("compact",)
    assert found.manifest.provenance == before.manifest.provenance
    assert (PACKED_INDEX in {p.name for p in (tmp_path / "compact").iterdir()}) == (most == 5000)
    convert(tmp_path / "compact", tmp_path / "dense", to="dense")
    assert load_file(tmp_path / "dense" / DENSE).keys() == load_file(folder / DENSE).keys()
    assert (tmp_path / "dense" / DENSE).read_bytes() == (folder / DENSE).read_bytes()
    convert(tmp_path / "dense", tmp_path / "again", to="both")
    again = load(tmp_path / "again", verify=True)
    assert_same_bits(again.model, model)
    assert inspect(tmp_path / "again", verify=True)["verified"]["dense"] > 0


def test_configurations_say_what_lies_beside_them(tmp_path: Path) -> None:
    model = open_model("transformers:bert", args=LIBRARIES["transformers:bert"])
    save(tmp_path / "x", *pruned(model))
    (tmp_path / "x" / "vocab.txt").write_text("a\nb\n")
    (tmp_path / "x" / "training.pt").write_bytes(b"\x80\x04N.")
    convert(tmp_path / "x", tmp_path / "dense", to="dense")
    assert {p.name for p in (tmp_path / "dense").iterdir()} == {"config.json", "vocab.txt", DENSE}
    assert "quantization_config" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    convert(tmp_path / "dense", tmp_path / "packed")
    config = json.loads((tmp_path / "packed" / "config.json").read_text())
    assert config["quantization_config"] == {"quant_method": "sigprune", "schema": 1}
    loaded = type(model).from_pretrained(tmp_path / "packed", variant="sparse")
    assert_same_bits(loaded, model)


def test_anybodys_sparse_checkpoint(tmp_path: Path) -> None:
    """Zeros of either sign tell, in sharded files too; a few zeros do not."""
    torch.manual_seed(0)
    model = open_model("transformers:bert", args=LIBRARIES["transformers:bert"])
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "encoder" in name and value.dim() == 2:
                value.mul_(torch.rand_like(value) < 0.5)  # leaves -0.0
        model.bert.embeddings.word_embeddings.weight[0] = 0
    model.save_pretrained(tmp_path / "x", max_shard_size="10KB")
    assert (tmp_path / "x" / DENSE_INDEX).exists()
    convert(tmp_path / "x", tmp_path / "packed", codec="compact")
    loaded = load(tmp_path / "packed", verify=True)
    assert all("encoder" in name for name in loaded.mask.keep)
    assert loaded.mask.sparsity == pytest.approx(0.5, abs=0.05)
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert not any(
        torch.signbit(p[p == 0]).any() for n, p in loaded.model.named_parameters() if "encoder" in n
    )


def test_what_zeros_imply() -> None:
    sparse = torch.tensor([[0.0, -0.0, 1.0, torch.nan]])
    assert implied(sparse).tolist() == [[False, False, True, True]]
    for other in (torch.ones(3, 3), torch.zeros(4), torch.zeros(2, 2, dtype=torch.int64), torch.zeros(0, 2)):
        assert implied(other) is None
    assert implied(sparse.to(torch.float8_e5m2)).sum() == 2
    assert implied(sparse.double()).sum() == 2


def test_the_mask_of_another_checkpoint(made: tuple[nn.Module, Path], tmp_path: Path) -> None:
    folder = made[1]
    convert(folder, tmp_path / "dense", to="dense")
    convert(tmp_path / "dense", tmp_path / "packed", mask=str(folder))
    assert load(tmp_path / "packed").mask == load(folder).mask
    with pytest.raises(BadInput, match="mask of its own"):
        convert(folder, tmp_path / "other", mask=str(folder))
    tensors = load_file(tmp_path / "dense" / DENSE)
    name = next(iter(load(folder).mask.keep))
    tensors[name] = torch.ones_like(tensors[name])
    save_file(tensors, tmp_path / "dense" / DENSE, {"format": "pt"})
    with pytest.raises(MaskViolated, match=name):
        convert(tmp_path / "dense", tmp_path / "other", mask=str(folder))
    assert not (tmp_path / "other").exists()


def test_files_that_name_tensors_otherwise_are_opened_whole(tmp_path: Path) -> None:
    """Experts apart on disk, one tensor in the model: what from_pretrained does is what is packed."""
    model = open_model("transformers:mixtral", args=LIBRARIES["transformers:mixtral"]).eval()
    model.save_pretrained(tmp_path / "x")  # in the layout of the original checkpoints
    assert any("experts.0.w1" in name for name in load_file(tmp_path / "x" / DENSE))
    convert(tmp_path / "x", tmp_path / "packed")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "x")
    assert_same_bits(load(tmp_path / "packed").model, plain)


def test_refusals_leave_nothing(made: tuple[nn.Module, Path], tmp_path: Path) -> None:
    folder = made[1]
    with pytest.raises(BadInput, match="unknown codec"):
        convert(folder, tmp_path / "y", codec="zip")
    with pytest.raises(BadInput, match="exactly two of each four"):
        convert(folder, tmp_path / "y", codec="two_four")
    with pytest.raises(FolderExists):
        convert(folder, folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"config\.json"):
        convert(tmp_path / "empty", tmp_path / "y")
    content = bytearray((folder / PACKED).read_bytes())
    content[-1] ^= 1
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / PACKED).write_bytes(content)
    with pytest.raises(CheckpointError):
        convert(tmp_path / "damaged", tmp_path / "y", to="dense")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged", "empty"]
    assert "bitmask" in codecs.names()
