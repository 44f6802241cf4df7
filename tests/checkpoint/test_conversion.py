"""Converting: nothing is lost between dense and packed, in one file or in many."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sigprune.base.errors import BadInput, CheckpointError, FolderExists, MaskViolated, NoSpace
from sigprune.base.tensors import Tensors
from sigprune.checkpoint.conversion import convert, implied
from sigprune.checkpoint.inspection import inspect
from sigprune.checkpoint.prune_shards import prune_files
from sigprune.checkpoint.read import load, unpacked
from sigprune.checkpoint.save import save
from sigprune.checkpoint.writers import PackedWriter, Written
from sigprune.families.codecs import codecs
from sigprune.format.index import read_manifest, read_manifests
from sigprune.format.names import DENSE, DENSE_INDEX, PACKED, PACKED_INDEX
from sigprune.models.opening import describe, open_model
from tests.checkpoint.test_checkpoint import LIBRARIES, assert_same_bits, pruned


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
    convert(folder, tmp_path / "compact", codec="compact", max_shard_bytes=most)
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
    assert config["quantization_config"] == {"quant_method": "sigprune", "schema": 2}
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
    numbers = torch.tensor([[0, 0x80, 0x31]], dtype=torch.uint8)
    for odd in (torch.float8_e8m0fnu, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz):
        assert implied(numbers.view(odd)) is None  # the sign's bit alone is 2, or NaN


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
    with pytest.raises(MaskViolated, match=f"{name}: .*; the mask is of another model"):
        convert(tmp_path / "dense", tmp_path / "other", mask=str(folder))
    assert not (tmp_path / "other").exists()


def test_files_that_name_tensors_otherwise_are_opened_whole(tmp_path: Path) -> None:
    """Experts apart on disk, one tensor in the model: what from_pretrained does is what is packed."""
    model = open_model("transformers:mixtral", args=LIBRARIES["transformers:mixtral"]).eval()
    pruned(model)
    model.save_pretrained(tmp_path / "x")  # in the layout of the original checkpoints
    assert any("experts.0.w1" in name for name in load_file(tmp_path / "x" / DENSE))
    convert(tmp_path / "x", tmp_path / "packed")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "x")
    assert_same_bits(load(tmp_path / "packed").model, plain)


def test_codecs_stay_unless_one_is_named(made: tuple[nn.Module, Path], tmp_path: Path) -> None:
    folder = made[1]
    whole = read_manifest(folder)
    (tmp_path / "mixed").mkdir()
    writer = PackedWriter(
        tmp_path / "mixed", whole.library, whole.architecture, whole.tied, {}, codecs.choose("bitmask"),
        network=whole.network or {},
    )  # fmt: skip
    for number, (name, tensor, keep) in enumerate(unpacked(folder, read_manifests(folder))):
        writer.add(name, tensor, keep, codecs.choose("compact") if number % 2 else None)
    mixed = writer.close()
    (tmp_path / "mixed" / "config.json").write_text((folder / "config.json").read_text())
    assert mixed.codecs == ("bitmask", "compact")
    convert(tmp_path / "mixed", tmp_path / "same")
    assert read_manifest(tmp_path / "same").tensors == mixed.tensors
    convert(tmp_path / "mixed", tmp_path / "one", codec="bitmask")
    assert read_manifest(tmp_path / "one").tensors == whole.tensors
    convert(tmp_path / "mixed", tmp_path / "dense", to="dense")
    convert(tmp_path / "dense", tmp_path / "anew")
    assert read_manifest(tmp_path / "anew").codecs == ("bitmask",)


def test_where_nothing_is_sparse_there_is_nothing_to_pack(tmp_path: Path) -> None:
    open_model("transformers:bert", args=LIBRARIES["transformers:bert"]).save_pretrained(tmp_path / "x")
    for to in ("packed", "both"):
        with pytest.raises(BadInput, match=r"x: nothing in it is sparse: .* 10% zeros; name .*--mask"):
            convert(tmp_path / "x", tmp_path / "y", to=to)
    assert not (tmp_path / "y").exists()
    done = convert(tmp_path / "x", tmp_path / "y", to="dense")
    assert (done.kept, done.total, done.sparsity, done.layers) == (0, 0, 0.0, {})


def test_what_is_written_is_told(made: tuple[nn.Module, Path], tmp_path: Path) -> None:
    mask = load(made[1]).mask
    for to in ("packed", "dense"):
        done = convert(made[1], tmp_path / to, to=to)
        assert (done.kept, done.layers) == (mask.kept, mask.counts())
        assert done.files == {p.name: p.stat().st_size for p in (tmp_path / to).iterdir()}
    lost = Written({}, {"a": (0, 2), "b": (1, 1000), "c": (1, 1001), "d": (0, 0)}, ())
    assert lost.nearly_empty() == ("a", "c")


def test_force_replaces_a_checkpoint_and_nothing_else(made: tuple[nn.Module, Path], tmp_path: Path) -> None:
    folder = made[1]
    convert(folder, tmp_path / "y")
    (tmp_path / "y" / "old.txt").write_text("old")
    with pytest.raises(FolderExists):
        convert(folder, tmp_path / "y", to="dense")
    convert(folder, tmp_path / "y", to="dense", force=True)
    assert not {PACKED, "old.txt"} & {p.name for p in (tmp_path / "y").iterdir()}
    with pytest.raises(BadInput, match="nothing shows that sigprune wrote it"):
        convert(folder, tmp_path / "y", force=True)  # plain dense weights may be anybody's
    convert(folder, tmp_path / "z")
    convert(folder, tmp_path / "z" / "inner")
    for source in ("z", "z/inner"):
        with pytest.raises(BadInput, match="replacing it would delete"):
            convert(tmp_path / source, tmp_path / "z", force=True)
    with pytest.raises(BadInput, match="replacing it would delete"):
        convert(tmp_path / "y", tmp_path / "z", mask=str(tmp_path / "z"), force=True)
    load(tmp_path / "z")


@pytest.mark.parametrize("most", [5000, 10**9])
def test_a_full_disk_is_one_line_with_the_bytes(
    made: tuple[nn.Module, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """What safetensors says of it, at the second file or the only one; and what the system says of others."""
    folder, written = made[1], []
    sizes = convert(folder, tmp_path / "x", max_shard_bytes=most).files

    def full(tensors: Tensors, path: Path, metadata: dict[str, str]) -> None:
        if len(written) == (most == 5000):
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        written.append(path)
        save_file(tensors, path, metadata)

    monkeypatch.setattr("sigprune.checkpoint.safetensors_io.save_file", full)
    with pytest.raises(NoSpace, match=rf"^{tmp_path}/y: no space left .* at least [\d,]+ bytes") as caught:
        convert(folder, tmp_path / "y", max_shard_bytes=most)
    whole = sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
    assert (0.5 if most == 10**9 else 0.01) * whole < caught.value.needs < whole
    view = describe(made[0])
    written.clear()
    with pytest.raises(NoSpace, match=f"^{tmp_path}/y: no space left"):
        save(tmp_path / "y", view, load(folder).mask, max_shard_bytes=most)
    monkeypatch.undo()

    def copy(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr("sigprune.checkpoint.sidecar_files.shutil.copyfile", copy)
    (folder / "vocab.txt").write_text("a")
    with pytest.raises(NoSpace, match=f"^{tmp_path}/y: no space left"):
        convert(folder, tmp_path / "y")
    (folder / "vocab.txt").unlink()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


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
    (tmp_path / "damaged" / PACKED).write_bytes((folder / PACKED).read_bytes())
    whole = json.loads((folder / "config.json").read_text())
    odd = (
        b"{",
        b"[]",
        b"\xff",
        b'{"a":' * 3000,
        *([json.dumps(whole | {"quantization_config": 5}).encode()]),
    )
    for text in odd if "model_type" in whole else odd[2:3]:
        (tmp_path / "damaged" / "config.json").write_bytes(text)
        with pytest.raises(CheckpointError, match=r"damaged.*config\.json: "):
            convert(tmp_path / "damaged", tmp_path / "y", to="dense")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged", "empty"]
    assert "bitmask" in codecs.names()


def test_a_configuration_is_refused_before_the_work(tmp_path: Path) -> None:
    model = open_model("transformers:bert", args=LIBRARIES["transformers:bert"])
    model.save_pretrained(tmp_path / "x")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "x" / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="stored as gptq"):
        prune_files(
            tmp_path / "x", tmp_path / "y", sparsity=0.5, on_progress=lambda *_: pytest.fail("it began")
        )
    (tmp_path / "x" / DENSE).write_bytes((tmp_path / "x" / DENSE).read_bytes()[:-4] + b"\xff" * 4)
    with pytest.raises(BadInput, match="stored as gptq"):
        convert(tmp_path / "x", tmp_path / "y")


@pytest.mark.parametrize("form", ["local-dir:{}", "transformers:{}", "{}"])
def test_every_form_of_a_folder(made: tuple[nn.Module, Path], tmp_path: Path, form: str) -> None:
    """What is written is the same, and no path gets into it."""
    folder = made[1]
    if "model_type" not in json.loads((folder / "config.json").read_text()):
        form = form.replace("transformers", "timm")
    convert(form.format(folder), tmp_path / "dense", to="dense")
    ref = form.format(tmp_path / "dense")
    convert(ref, tmp_path / "packed")
    provenance = inspect(tmp_path / "packed")["provenance"]
    assert provenance == {"source": "dense", "mask_from": "zeros", "proved": "names and shapes"}
    prune_files(ref, tmp_path / "pruned", sparsity=0.5)
    provenance = inspect(tmp_path / "pruned")["provenance"]
    assert provenance["source"] == "dense"
    assert str(tmp_path) not in json.dumps(provenance)


def test_no_tensor_of_a_dense_checkpoint_is_lost(tmp_path: Path) -> None:
    """Both names of a tie may be there if they are copies; a tensor without a place is named."""
    model = open_model("transformers:bert", args=LIBRARIES["transformers:bert"])
    model.save_pretrained(tmp_path / "x")
    tensors = {name: t.clone() for name, t in load_file(tmp_path / "x" / DENSE).items()}
    table, head = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
    assert head not in tensors
    file = tmp_path / "x" / DENSE
    save_file(tensors | {head: tensors[table].clone()}, file, {"format": "pt"})
    convert(tmp_path / "x", tmp_path / "copies", to="dense")
    assert_same_bits(type(model).from_pretrained(tmp_path / "copies"), model)
    for added, message in (
        ({head: tensors[table] + 1}, f"{table}.* and {head}.* differ"),
        ({head: tensors[table].double()}, "differ, and are one tensor"),
        ({"extra.weight": torch.ones(2)}, r"hold extra\.weight, which the model .* lacks"),
    ):
        save_file(tensors | added, file, {"format": "pt"})
        with pytest.raises(BadInput, match=message):
            convert(tmp_path / "x", tmp_path / "y")
        with pytest.raises(BadInput, match=message):
            prune_files(tmp_path / "x", tmp_path / "y", sparsity=0.5)
    assert not (tmp_path / "y").exists()
