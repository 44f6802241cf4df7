"""Pruning file by file: the same mask as in memory, exact counts, whatever the number of files."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sigprune.base.errors import BadInput, BadScores
from sigprune.base.registry import MemberSpec
from sigprune.checkpoint.dense_reader import _made_by_the_model
from sigprune.checkpoint.external_topk import kth_largest
from sigprune.checkpoint.inspection import inspect
from sigprune.checkpoint.prune_shards import prune_files
from sigprune.checkpoint.read import load, load_mask
from sigprune.format.index import read_manifest, read_manifests
from sigprune.format.names import DENSE, PACKED
from sigprune.models.opening import describe, open_model
from sigprune.pruning.choose import Method, apply_, prune
from tests.checkpoint.test_checkpoint import LIBRARIES, assert_same_bits

SPREAD = {
    "normal": lambda n: torch.randn(n).abs(),
    "equal": torch.ones,
    "few values": lambda n: torch.randint(0, 3, (n,)).float(),
    "subnormal": lambda n: torch.arange(n).float() * 1e-45,
    "wide": lambda n: 10.0 ** torch.linspace(-44, 38, n),
    "one bin": lambda n: 1 + torch.arange(n) * 2.0**-23,
}


@pytest.mark.parametrize("spread", SPREAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_threshold_is_that_of_sorting(spread: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    numbers = SPREAD[spread](997).to(dtype)
    parts = dict(zip("abc", numbers.split([400, 0, 597]), strict=True))
    ordered = numbers.sort(descending=True).values
    for count in (0, 1, 2, 399, 996, 997):
        limit = kth_largest(parts.items, count, dtype, seed=0)
        keep = {name: limit.keep(name, part) for name, part in parts.items()}
        chosen = numbers[torch.cat(list(keep.values()))]
        assert len(chosen) == count
        assert torch.equal(chosen.sort(descending=True).values, ordered[:count])
        again = kth_largest(parts.items, count, dtype, seed=0)
        assert all(torch.equal(keep[name], again.keep(name, part)) for name, part in parts.items())


def test_ties_are_shared_by_size_and_seed_and_not_by_position() -> None:
    parts = {"a": torch.ones(1000), "b": torch.ones(3000)}

    def kept(seed: int) -> dict[str, Tensor]:
        limit = kth_largest(parts.items, 1001, torch.float32, seed=seed)
        return {name: limit.keep(name, part) for name, part in parts.items()}

    one, other = kept(0), kept(1)
    assert sum(int(k.sum()) for k in one.values()) == 1001
    assert int(one["a"].sum()) in {250, 251}
    assert not torch.equal(one["b"], other["b"])
    assert 600 < int(one["b"].nonzero()[:, 0].median()) < 2400


@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_odd_scores_are_named(odd: float) -> None:
    with pytest.raises(BadScores, match=r"b: 1 of 2 scores are NaN, infinite or negative"):
        kth_largest({"b": torch.tensor([1.0, odd])}.items, 1, torch.float32, seed=0)


@pytest.fixture(scope="module", params=["10KB", "1GB"])
def dense(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    model = open_model("transformers:bert", args=LIBRARIES["transformers:bert"]).eval()
    folder = tmp_path_factory.mktemp("by-shard") / "x"
    model.save_pretrained(folder, max_shard_size=request.param)
    return model, folder


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_the_mask_is_that_of_pruning_in_memory(
    dense: tuple[nn.Module, Path], tmp_path: Path, sparsity: float
) -> None:
    model, folder = dense
    pooled = Method("magnitude", "pooled")
    written = prune_files(folder, tmp_path / "y", sparsity=sparsity, codec="compact", method=pooled)
    own = open_model(str(folder), pretrained=True).eval()
    view = describe(own)
    mask = prune(view, sparsity=sparsity, score="magnitude", allocation="pooled")
    apply_(view, mask)
    loaded = load(tmp_path / "y", verify=True)
    assert loaded.mask == mask
    assert_same_bits(loaded.model, own)
    assert_same_bits(type(model).from_pretrained(tmp_path / "y"), own)
    assert_same_bits(type(model).from_pretrained(tmp_path / "y", variant="sparse"), own)
    assert (written.kept, written.sparsity) == (mask.kept, pytest.approx(sparsity, abs=1e-3))
    files = sorted(p.name for p in folder.iterdir() if p.name.endswith(".safetensors"))
    assert sorted(p.name for p in (tmp_path / "y").iterdir() if p.name in files) == files
    assert inspect(tmp_path / "y", verify=True)["verified"]["dense"]


FREE = itertools.product(("uniform", "erk", "igq", "uniform_plus"), ("unstructured", "per_row"))


@pytest.mark.parametrize(("allocation", "pattern"), [*FREE, ("uniform", "n_m")])
def test_masks_with_a_structure_are_those_of_pruning_in_memory(
    dense: tuple[nn.Module, Path], tmp_path: Path, allocation: str, pattern: str
) -> None:
    """Equal scores too: one weight holds few values."""
    model, folder = dense[0], shutil.copytree(dense[1], tmp_path / "x")
    tied = next(name for name, _ in model.named_parameters() if name.endswith("key.weight"))
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        if tied in tensors:
            save_file({**tensors, tied: tensors[tied].mul(20).round()}, path, {"format": "pt"})
    method = Method("magnitude", allocation, MemberSpec(pattern, {"n": 1} if pattern == "n_m" else {}))
    prune_files(folder, tmp_path / "y", sparsity=0.75, method=method, seed=5)
    view = describe(open_model(str(folder), pretrained=True).eval())
    parts = {"score": "magnitude", "allocation": method.allocation, "pattern": method.pattern}
    mask = prune(view, sparsity=0.75, seed=5, **parts)
    assert load(tmp_path / "y", verify=True).mask == mask
    assert mask.kept == round(0.25 * mask.total)
    said = read_manifest(tmp_path / "y").provenance
    assert said["allocation"]["name"] == allocation
    assert said.get("pattern") == {"n_m": {"name": "n_m", "n": 1, "m": 4, "indivisible": "dense"}}.get(
        pattern, {"name": pattern} if pattern != "unstructured" else None
    )


def test_random_scope_and_half_precision(dense: tuple[nn.Module, Path], tmp_path: Path) -> None:
    folder = dense[1]
    scope = {"method": Method("random"), "exclude": ("*.key.*",)}
    for name, seed in {"1": 3, "2": 3, "3": 4}.items():
        prune_files(folder, tmp_path / name, sparsity=0.7, **scope, seed=seed)
    one, two, other = (read_manifest(tmp_path / name) for name in "123")
    assert one.mask_digest == two.mask_digest != other.mask_digest
    assert (one.kept, one.kept) == (other.kept, round(0.3 * one.total))
    assert not any(".key." in name for name in one.masked)
    half = open_model(str(folder), pretrained=True).bfloat16()
    half.save_pretrained(tmp_path / "half")
    prune_files(tmp_path / "half", tmp_path / "4", sparsity=0.5)
    manifest = read_manifest(tmp_path / "4")
    assert {entry.dtype for entry in manifest.tensors.values()} == {"bfloat16"}
    assert manifest.kept == round(manifest.total / 2)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8], ids=str)
def test_magnitudes_of_narrow_numbers(
    dense: tuple[nn.Module, Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    """Their own abs() keeps the sign of -0.0, and of -128."""
    folder = tmp_path / "x"
    dense[0].save_pretrained(folder)
    tensors = {name: t.clone() for name, t in load_file(folder / DENSE).items()}
    name = next(n for n in tensors if n.endswith("query.weight"))
    tensors[name] = torch.arange(256, dtype=torch.uint8).reshape(16, 16).clone().view(dtype)
    if dtype.is_floating_point:
        tensors[name] = tensors[name].float().nan_to_num(1, 1, 1).to(dtype)
    save_file(tensors, folder / DENSE, {"format": "pt"})
    prune_files(folder, tmp_path / "y", sparsity=0.5, include=(name,))
    keep = load_mask(tmp_path / "y").keep[name]
    sizes = tensors[name].double().abs()
    assert int(keep.sum()) == 128
    assert sizes[keep].min() >= sizes[~keep].max()
    tensors[name] = torch.full((16, 16), 130, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    save_file(tensors, folder / DENSE, {"format": "pt"})
    with pytest.raises(BadInput, match="has no zero"):
        prune_files(folder, tmp_path / "z", sparsity=0.5)


def test_timm_in_one_file(tmp_path: Path) -> None:
    model = open_model("timm:test_resnet", args={"num_classes": 5}).eval()
    from timm.models._hub import save_for_hf

    save_for_hf(model, tmp_path / "x", safe_serialization=True)
    prune_files(tmp_path / "x", tmp_path / "y", sparsity=0.8, method=Method("magnitude", "pooled"))
    view = describe(open_model(str(tmp_path / "x"), pretrained=True).eval())
    mask = prune(view, sparsity=0.8, score="magnitude", allocation="pooled")
    assert load(tmp_path / "y").mask == mask
    assert {PACKED, DENSE, "config.json"} == {p.name for p in (tmp_path / "y").iterdir()}
    assert list(read_manifests(tmp_path / "y")) == [PACKED]


def test_buffers_that_the_model_makes_itself_are_no_loss(
    dense: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    """Older files hold them (``position_ids`` of BERT, ``inv_freq`` of each layer); libraries skip them."""
    folder = shutil.copytree(dense[1], tmp_path / "x")
    path = next(iter(folder.glob("*.safetensors")))
    positions = {"bert.embeddings.position_ids": torch.arange(9)[None]}
    tensors = load_file(path)
    save_file(tensors | positions, path, {"format": "pt"})
    prune_files(folder, tmp_path / "y", sparsity=0.5)
    assert not [name for name in read_manifest(tmp_path / "y").tensors if name.endswith("position_ids")]
    view = describe(open_model(str(dense[1]), pretrained=True))
    assert load(tmp_path / "y").mask == prune(view, sparsity=0.5, score="magnitude")
    for odd in ("encoder.layer.0.odd", "bert.embeddings.inv_freq"):  # bert makes no frequencies
        save_file(tensors | positions | {odd: torch.ones(1)}, path, {"format": "pt"})
        with pytest.raises(BadInput, match=rf"hold {odd}, which the model"):
            prune_files(folder, tmp_path / "z", sparsity=0.5)


def test_a_weight_is_no_buffer_whatever_the_model_has_there() -> None:
    """falcon_mamba has buffers named weight, which no file holds; files of another kind may hold weights."""
    model = nn.Module()
    for name in ("weight", "position_ids", "attn_mask"):
        model.register_buffer(name, torch.ones(4), persistent=name == "attn_mask")
    names = frozenset({"norm.weight", "weight", "old.place.position_ids", "attn_mask", "x.inv_freq"})
    assert _made_by_the_model(model, names) == {"old.place.position_ids"}


def test_a_manifest_holds_no_path_of_this_machine(dense: tuple[nn.Module, Path], tmp_path: Path) -> None:
    prune_files(dense[1], tmp_path / "first", sparsity=0.5)
    allocation = MemberSpec("from_mask", {"checkpoint": str(tmp_path / "first")})
    prune_files(dense[1], tmp_path / "y", sparsity=0.5, method=Method("magnitude", allocation, "per_row"))
    manifest = read_manifest(tmp_path / "y")
    assert manifest.provenance["allocation"] == {"name": "from_mask", "checkpoint": "first"}
    assert str(tmp_path) not in manifest.to_json()
    kept = {name: entry.kept for name, entry in manifest.tensors.items()}
    assert kept == {name: entry.kept for name, entry in read_manifest(tmp_path / "first").tensors.items()}


def test_refusals_leave_nothing(dense: tuple[nn.Module, Path], tmp_path: Path) -> None:
    folder = dense[1]
    for options, message in (
        ({"sparsity": 1.0}, "0 <= sparsity < 1"),
        ({"sparsity": 0.5, "method": Method("snip")}, "never run"),
        ({"sparsity": 0.5, "method": Method("magnitude", "pooled", "per_row")}, "set allocation: uniform"),
        ({"sparsity": 0.5, "method": Method("magnitude", "uniform", "channel")}, "prune in memory"),
        ({"sparsity": 0.5, "method": Method("magnitude", "erk", "n_m")}, "set allocation: uniform"),
        ({"sparsity": 0.6, "method": Method("magnitude", "uniform", "n_m")}, "expected sparsity 0.5"),
        ({"sparsity": 0.6, "method": Method("magnitude", MemberSpec("pooled", {"floor": 0.1}))}, "a floor"),
        ({"sparsity": 0.5, "include": ("nothing",)}, "matches no weight"),
    ):
        with pytest.raises(BadInput, match=message):
            prune_files(folder, tmp_path / "y", **options)
    mixtral = open_model("transformers:mixtral", args=LIBRARIES["transformers:mixtral"])
    mixtral.save_pretrained(tmp_path / "mixtral")
    with pytest.raises(BadInput, match="name tensors otherwise"):
        prune_files(tmp_path / "mixtral", tmp_path / "y", sparsity=0.5)
    bert = open_model("transformers:bert", args=LIBRARIES["transformers:bert"])
    bert.save_pretrained(tmp_path / "odd")
    tensors = {name: t.clone() for name, t in load_file(tmp_path / "odd" / DENSE).items()}
    name = next(n for n in tensors if n.endswith("query.weight"))
    tensors[name][0, 0] = torch.nan
    save_file(tensors, tmp_path / "odd" / DENSE, {"format": "pt"})
    for method in (Method("magnitude"), Method("magnitude", "uniform", "per_row")):
        with pytest.raises(BadScores, match=r"query\.weight: 1 of 256"):
            prune_files(tmp_path / "odd", tmp_path / "y", sparsity=0.5, method=method)
    assert not (tmp_path / "y").exists()
