"""Checkpoints: bit for bit, whole or not at all, and suspicious of what they read."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sigprune.base.bits import as_integers
from sigprune.base.errors import BadInput, CheckpointError, FolderExists, MaskViolated
from sigprune.base.rng import generator
from sigprune.checkpoint.inspection import inspect
from sigprune.checkpoint.packing import fingerprint
from sigprune.checkpoint.read import SparseCheckpoint, load, load_mask
from sigprune.checkpoint.save import save
from sigprune.format.manifest import Entry, Manifest, Masked
from sigprune.format.names import DENSE, PACKED
from sigprune.models.opening import describe, open_model
from sigprune.pruning.choose import apply_, prune
from sigprune.values.mask import Mask, digest_of_bits
from sigprune.values.view import View

LIBRARIES = {
    "timm:test_vit": {"num_classes": 5},
    "timm:test_resnet": {"num_classes": 5},
    "transformers:vit": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 16,
        "patch_size": 8,
    },
    "transformers:bert": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 50,
        "task": "masked-lm",
    },
    "transformers:mixtral": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 24,
        "vocab_size": 50,
        "num_local_experts": 3,
        "task": "causal-lm",
    },
}


class Tied(nn.Module):
    """Two names for one masked tensor, and a buffer."""

    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.second = nn.Linear(6, 6, bias=False)
        if tie:
            self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)))


def pruned(
    model: nn.Module,
    sparsity: float = 0.75,
    *,
    pattern: str = "unstructured",
    allocation: str = "pooled",
    biases: bool = False,
) -> tuple[View, Mask]:
    view = describe(model.eval())
    if biases:
        view = view.select(biases=True)
    mask = prune(view, sparsity=sparsity, score="magnitude", pattern=pattern, allocation=allocation)
    apply_(view, mask)
    return view, mask


def bits(model: nn.Module) -> dict[str, Tensor]:
    return {name: as_integers(tensor) for name, tensor in model.state_dict().items()}


def assert_same_bits(one: nn.Module, other: nn.Module) -> None:
    mine, theirs = bits(one), bits(other)
    assert list(mine) == list(theirs)
    for name, value in mine.items():
        assert one.state_dict()[name].dtype is other.state_dict()[name].dtype, name
        assert torch.equal(value, theirs[name]), name


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A small checkpoint of a model of one's own."""
    torch.manual_seed(0)
    view, mask = pruned(nn.Linear(5, 3))
    save(tmp_path / "saved", view, mask, extra={"recipe_digest": "abc"})
    return tmp_path / "saved"


def rewrite(folder: Path, change: Callable[[dict[str, Tensor], dict[str, str]], object]) -> None:
    """Change the packed file's tensors and metadata, as somebody who knows the format would."""
    path = folder / PACKED
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors, metadata)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_bit_survives(tmp_path: Path, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 3)).to(dtype)
    width = torch.zeros((), dtype=dtype).element_size()
    for name, p in model.named_parameters():
        stream = generator(0, "test", name)
        noise = torch.randint(0, 256, (p.numel() * width,), dtype=torch.uint8, generator=stream)
        p.data = noise.view(dtype).reshape(p.shape)  # NaN payloads, infinities, subnormals
    model[0].weight.data[0, :3] = torch.tensor([0.0, -0.0, torch.nan])
    view = describe(model)
    keep = {n: torch.rand(s, generator=generator(1, "keep")) < 0.3 for n, s in view.prunable_shapes().items()}
    keep["0.weight"][0, :3] = True
    mask = Mask(keep)
    apply_(view, mask)
    save(tmp_path / "x", view, mask)
    for other in (None, nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 3)).to(dtype)):
        if other is not None:
            loaded = load(tmp_path / "x", into=other)
            assert loaded.model is other
            assert_same_bits(loaded.model, model)
            assert loaded.mask == mask
    dense = load_file(tmp_path / "x" / DENSE)
    for name, value in bits(model).items():
        assert torch.equal(as_integers(dense[name]), value)


@pytest.mark.parametrize("ref", LIBRARIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_models_of_both_libraries_come_back(tmp_path: Path, ref: str, dtype: torch.dtype) -> None:
    model = open_model(ref, args=LIBRARIES[ref]).to(dtype)
    view, mask = pruned(model)
    save(tmp_path / "x", view, mask)
    loaded = load(tmp_path / "x")
    assert isinstance(loaded, SparseCheckpoint)
    assert_same_bits(loaded.model, model)
    assert loaded.mask == mask
    assert list(loaded.mask.keep) == list(mask.keep)
    assert not any(module.training for module in loaded.model.modules())
    assert [n for n, _ in loaded.model.named_parameters()] == [n for n, _ in model.named_parameters()]  # ties
    again = describe(loaded.model)
    with torch.no_grad():
        assert torch.equal(again.forward({}, again.example), view.forward({}, view.example))


@pytest.mark.parametrize("ref", LIBRARIES)
def test_the_libraries_alone_load_the_dense_file(tmp_path: Path, ref: str) -> None:
    model = open_model(ref, args=LIBRARIES[ref])
    view, mask = pruned(model)
    save(tmp_path / "x", view, mask)
    if ref.startswith("timm"):
        plain = timm.create_model(f"local-dir:{tmp_path / 'x'}", pretrained=True)
    else:
        kind = getattr(transformers, type(model).__name__)
        plain, info = kind.from_pretrained(tmp_path / "x", output_loading_info=True)
        assert not any(info.values()), info
    assert_same_bits(plain, model)


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    model = Tied()
    view, mask = pruned(model)
    save(tmp_path / "x", view, mask)
    assert "second.weight" not in load_file(tmp_path / "x" / DENSE)
    loaded = load(tmp_path / "x", into=Tied())
    assert loaded.manifest.tied == {"second.weight": "first.weight"}
    assert loaded.model.second.weight is loaded.model.first.weight
    assert_same_bits(loaded.model, model)
    with pytest.raises(CheckpointError, match="does not tie"):
        load(tmp_path / "x", into=Tied(tie=False))


def test_a_tie_of_tensors_of_two_shapes_is_refused(tmp_path: Path) -> None:
    view, mask = pruned(Tied())
    save(tmp_path / "x", view, mask)

    def retie(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        del tensors["norm.bias"]
        own = json.loads(metadata["sigprune"])
        del own["tensors"]["norm.bias"]
        relabel(metadata, tensors=own["tensors"], tied=own["tied"] | {"norm.bias": "first.weight"})

    rewrite(tmp_path / "x", retie)
    with pytest.raises(CheckpointError, match=r"norm\.bias: .* first\.weight, which has another shape"):
        load(tmp_path / "x", into=Tied())


LLAMA = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "task": "causal-lm",
}


def test_frequencies_stay_float32_in_a_bfloat16_model(tmp_path: Path) -> None:
    """What transformers opens, not what ``model.to`` makes of its buffers."""
    open_model("transformers:llama", args=LLAMA).to(torch.bfloat16).save_pretrained(tmp_path / "dense")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "dense").eval()
    view, mask = pruned(model)
    save(tmp_path / "x", view, mask)
    loaded = load(tmp_path / "x").model
    assert loaded.dtype is torch.bfloat16
    assert torch.equal(loaded.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    assert loaded.model.rotary_emb.inv_freq.dtype is torch.float32
    ids = torch.arange(50)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_what_was_saved_apart_stays_apart_though_the_configuration_ties_it(tmp_path: Path) -> None:
    model = open_model("transformers:llama", args=LLAMA | {"tie_word_embeddings": True}).eval()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.lm_head.weight = nn.Parameter(torch.randn(50, 32))
    view, mask = pruned(model)
    save(tmp_path / "x", view, mask)
    loaded = load(tmp_path / "x", verify=True).model
    assert_same_bits(loaded, model)
    assert loaded.lm_head.weight is not loaded.model.embed_tokens.weight


def test_equal_models_give_equal_bytes_and_the_returned_facts_are_true(tmp_path: Path) -> None:
    view, mask = pruned(Tied())
    facts = [save(tmp_path / str(i), view, mask, extra={"b": [1, None], "a": 0.5}) for i in range(4)]
    assert all(f == facts[0] for f in facts)
    for name, fact in facts[0].items():
        content = (tmp_path / "3" / name).read_bytes()
        assert fact == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert set(facts[0]) == {"config.json", DENSE, PACKED}


def test_the_files_say_what_they_are(saved: Path) -> None:
    with safe_open(saved / DENSE, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    with safe_open(saved / PACKED, framework="pt") as file:
        assert set(file.metadata()) == {"sigprune"}
        assert set(file.keys()) == {"weight", "weight_sparse_bits", "bias"}
        text = file.metadata()["sigprune"]
    assert json.loads(text)["provenance"] == {"recipe_digest": "abc"}
    assert Manifest.parse(text).to_json() == text
    assert (saved / DENSE).stat().st_mode == (saved / "config.json").stat().st_mode


def test_dense_zeros_are_positive_and_the_model_is_not_touched(tmp_path: Path) -> None:
    model = nn.Linear(4, 2, bias=False)
    mask = Mask({"weight": torch.tensor([[True, False, True, False], [False, True, False, True]])})
    with torch.no_grad():
        model.weight.copy_(torch.where(mask.keep["weight"], model.weight, -0.0))
    save(tmp_path / "x", describe(model), mask)
    dense = load_file(tmp_path / "x" / DENSE)["weight"]
    assert not as_integers(dense)[~mask.keep["weight"]].any()
    assert torch.signbit(model.weight[~mask.keep["weight"]]).all()


def test_odd_memory_layouts_are_stored_as_values(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(6, 6), nn.Linear(3, 6)).to(
        memory_format=torch.channels_last
    )
    pool = torch.randn(12, 6)
    model[1].weight.data = pool[:6]
    model[2].weight.data = pool[6:, :3]  # views of one storage, one of them not contiguous
    view, mask = pruned(model, 0.5)
    save(tmp_path / "x", view, mask)
    fresh = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(6, 6), nn.Linear(3, 6))
    assert_same_bits(load(tmp_path / "x", into=fresh).model, model)


def test_a_model_that_disagrees_with_its_mask_is_refused(tmp_path: Path) -> None:
    view, mask = pruned(nn.Linear(5, 3))
    with torch.no_grad():
        view.module.weight[~mask.keep["weight"]] += 1e-30
    with pytest.raises(MaskViolated, match="weight"):
        save(tmp_path / "x", view, mask)
    with pytest.raises(BadInput, match="expected shape"):
        save(tmp_path / "x", view, Mask({"weight": torch.ones(5, 3, dtype=torch.bool)}))
    with pytest.raises(BadInput, match="no such weight"):
        save(tmp_path / "x", view, Mask({"nonsense": torch.ones(5, 3, dtype=torch.bool)}))
    assert not list(tmp_path.iterdir())


def test_a_failing_save_leaves_nothing_behind(tmp_path: Path) -> None:
    view, mask = pruned(nn.Linear(5, 3))
    with pytest.raises(BadInput, match="plain, finite"):
        save(tmp_path / "deep" / "x", view, mask, extra={"loss": float("nan")})
    with pytest.raises(BadInput, match="meta"):
        save(tmp_path / "x", describe(nn.Linear(2, 2, device="meta")), Mask({}))
    wide = nn.Linear(2, 2, dtype=torch.complex128)
    with pytest.raises(BadInput, match="complex128"):
        save(tmp_path / "x", describe(wide), Mask.dense({"weight": (2, 2)}))
    assert not list(tmp_path.iterdir())


def test_colliding_names_are_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.register_parameter("weight_sparse_bits", nn.Parameter(torch.ones(2)))
    with pytest.raises(BadInput, match="weight_sparse_bits"):
        save(tmp_path / "x", describe(model), Mask.dense({"weight": (2, 2)}))
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused(saved: Path) -> None:
    before = (saved / PACKED).read_bytes()
    view, mask = pruned(nn.Linear(5, 3), 0.5)
    with pytest.raises(FolderExists, match="not empty"):
        save(saved, view, mask)
    assert (saved / PACKED).read_bytes() == before


@pytest.mark.parametrize("flip", [0x01, pytest.param(0x80, marks=pytest.mark.slow)])
def test_no_flipped_byte_goes_unnoticed(saved: Path, flip: int) -> None:
    content = (saved / PACKED).read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= flip
        (saved / PACKED).write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"model\.sparse\.safetensors"):
            load(saved, into=nn.Linear(5, 3))


def test_no_truncation_goes_unnoticed(saved: Path) -> None:
    content = (saved / PACKED).read_bytes()
    for length in (*range(0, len(content), 37), len(content) - 1):
        (saved / PACKED).write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"model\.sparse\.safetensors"):
            load(saved, into=nn.Linear(5, 3))


def relabel(metadata: dict[str, str], **fields: object) -> None:
    """Change the manifest and give it the digest of the changed text."""
    plain = {k: v for k, v in json.loads(metadata["sigprune"]).items() if k != "digest"} | fields
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    plain["digest"] = hashlib.sha256(text.encode()).hexdigest()
    metadata["sigprune"] = json.dumps(plain, sort_keys=True, separators=(",", ":"))


def entry(metadata: dict[str, str], name: str, **fields: object) -> None:
    tensors = json.loads(metadata["sigprune"])["tensors"]
    tensors[name] |= fields
    relabel(metadata, tensors=tensors)


def reshape(metadata: dict[str, str], name: str, *shape: int) -> None:
    total, own = math.prod(shape), json.loads(metadata["sigprune"])
    mask = digest_of_bits({name: (shape, own["tensors"][name]["bits"])})
    relabel(metadata, total=total, sparsity=1 - own["kept"] / total, mask=mask)
    entry(metadata, name, shape=list(shape))


def repart(metadata: dict[str, str], tensors: dict[str, Tensor]) -> None:
    """Give the parts of "weight" the digests that they have."""
    parts = {s: fingerprint(tensors[f"weight{s}"]) for s in ("", "_sparse_bits")}
    entry(metadata, "weight", parts=parts)


LIES = {
    "missing from the file": lambda t, _: t.pop("bias"),
    "weight_sparse_bits: missing": lambda t, _: t.pop("weight_sparse_bits"),
    "extra: not in the manifest": lambda t, _: t.update(extra=torch.ones(1)),
    "bias: the manifest says float32": lambda t, _: t.update(bias=torch.ones(4)),
    "says float32 .3,., the file holds torch.float16": lambda t, _: t.update(bias=t["bias"].half()),
    "bias: its bytes do not have the digest": lambda t, _: t["bias"].add_(1e-7),
    "weight: part '': expected bytes of the shape": lambda t, _: t.update(weight=t["weight"][0].clone()),
    "bytes of part '_sparse_bits'": lambda t, _: t["weight_sparse_bits"][0].bitwise_xor_(1),
    "bytes of part ''": lambda t, _: t["weight"].neg_(),
    "weight: part '': expected 16 bytes": lambda t, m: (
        t.update(weight=t["weight"][:, :, 4:].clone()),
        repart(m, t),
    ),
    "weight: stray mask bits": lambda t, m: (t["weight_sparse_bits"][-1].add_(128), repart(m, t)),
    "less than 2.63 entries": lambda _, m: reshape(m, "weight", 2**53, 2**53),
    "weight: the model expects": lambda _, m: reshape(m, "weight", 5, 3),
    "non-negative sizes": lambda _, m: entry(m, "weight", shape=[-3, -5]),
    "for a masked one bits, codec, kept, parts": lambda _, m: entry(m, "weight", colour="red"),
    "parts lack the main one": lambda _, m: entry(m, "weight", parts={}),
    "the manifest names": lambda t, m: (
        t.pop("weight_sparse_bits"),
        entry(m, "weight", parts={"": "0"}),
    ),
    "kept entries, got 99": lambda _, m: entry(m, "weight", kept=99),
    "disagree": lambda _, m: entry(m, "weight", kept=5),
    "expected a dtype among": lambda _, m: entry(m, "weight", dtype="nn"),
    "digest or counts disagree": lambda _, m: relabel(m, mask="0" * 64),
    "expected schema 1 or 2, got 3": lambda _, m: relabel(m, schema=3),
    "unknown codec 'zip'": lambda _, m: entry(m, "weight", codec="zip"),
    "missing or unknown field 'colour'": lambda _, m: relabel(m, colour="red"),
    "codec: expected str": lambda _, m: entry(m, "weight", codec=3),
    "bias: expected a copy of a stored tensor": lambda _, m: relabel(m, tied={"bias": "weight"}),
    "other: expected a copy of a stored tensor": lambda _, m: relabel(m, tied={"other": "nothing"}),
    "expected JSON": lambda _, m: m.update(sigprune="{"),
    "expected a JSON object": lambda _, m: m.update(sigprune="[]"),
    "expected one metadata entry": lambda _, m: m.update(other="1"),
}


@pytest.mark.parametrize("message", LIES)
def test_a_lie_is_named(saved: Path, message: str) -> None:
    rewrite(saved, LIES[message])
    model = nn.Linear(5, 3)
    before = bits(model)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(saved, into=model)
    assert PACKED in str(caught.value)
    assert all(torch.equal(before[n], v) for n, v in bits(model).items())


@pytest.mark.parametrize("shape", [(3, 6), (2**30, 2**30)])
def test_a_shape_that_the_parts_do_not_fill_is_refused_before_memory_is_asked_for(
    saved: Path, shape: tuple[int, ...]
) -> None:
    rewrite(saved, lambda _, m: reshape(m, "weight", *shape))
    with pytest.raises(
        CheckpointError, match=f"weight: part '_sparse_bits': expected {(math.prod(shape) + 7) // 8} bytes"
    ):
        load_mask(saved)


def test_moved_kept_bits_are_noticed(saved: Path) -> None:
    """The right number of bits in other places: caught by the digest, not by counting."""

    def move(tensors: dict[str, Tensor], _: object) -> None:
        keep = [int(b) >> i & 1 for b in tensors["weight_sparse_bits"] for i in range(8)][:15]
        moved = [*keep[1:], keep[0]]
        assert moved != keep
        packed = [sum(b << i for i, b in enumerate(moved[8 * k : 8 * k + 8])) for k in range(2)]
        tensors["weight_sparse_bits"].copy_(torch.tensor(packed, dtype=torch.uint8))

    rewrite(saved, move)
    with pytest.raises(CheckpointError, match="weight: the bytes of part '_sparse_bits'"):
        load(saved, into=nn.Linear(5, 3))
    rewrite(saved, lambda t, m: repart(m, t))
    with pytest.raises(CheckpointError, match="weight: its dense values"):
        load(saved, into=nn.Linear(5, 3), verify=True)


def test_another_architecture_is_named(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="bias: the model lacks it"):
        load(saved, into=nn.Linear(5, 3, bias=False))
    with pytest.raises(CheckpointError, match=r"weight: the model expects torch.float32 \(3, 4\)"):
        load(saved, into=nn.Linear(4, 3))
    with pytest.raises(CheckpointError, match=r"expects torch.float64"):
        load(saved, into=nn.Linear(5, 3).double())


def test_a_model_of_ones_own_is_asked_for(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json.*into=model"):
        load(saved)


def test_into_fills_the_given_parameters(saved: Path) -> None:
    model = nn.Linear(5, 3)
    parameters = list(model.parameters())
    load(saved, into=model)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))


def test_missing_folders_files_and_revisions(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="holds neither"):
        load(tmp_path)
    with pytest.raises(BadInput, match="no revisions"):
        load(saved, revision="main")
    with pytest.raises(CheckpointError, match="holds neither"):
        inspect(tmp_path)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was read",))


def test_no_pickle_is_read(tmp_path: Path) -> None:
    view, mask = pruned(open_model("timm:test_resnet"))
    save(tmp_path / "x", view, mask)
    for name in ("pytorch_model.bin", "model.pt", "model.pkl"):
        (tmp_path / "x" / name).write_bytes(pickle.dumps(Bomb()))
    load(tmp_path / "x")


def test_inspect_reads_the_header_alone(saved: Path) -> None:
    facts = inspect(saved)
    assert (facts["kept"], facts["total"], facts["entries"]) == (4, 15, 18)
    assert facts["layers"] == [
        {
            "name": "weight",
            "shape": [3, 5],
            "dtype": "float32",
            "kept": 4,
            "total": 15,
            "sparsity": 1 - 4 / 15,
        }
    ]
    assert facts["provenance"] == {"recipe_digest": "abc"}
    assert facts["files"] == {p.name: p.stat().st_size for p in saved.iterdir()}
    json.dumps(facts)
    content = bytearray((saved / PACKED).read_bytes())
    content[-1] ^= 1
    (saved / PACKED).write_bytes(content)
    assert inspect(saved) == facts


def test_manifest_counts_add_up() -> None:
    masked = Masked(2, "bitmask", "b", {"": "v", "_sparse_bits": "b"})
    entries = {"a": Entry((2, 3), "float32", "d", masked), "b": Entry((4,), "float32", "d")}
    manifest = Manifest("torch", "Net", entries, {})
    assert (manifest.kept, manifest.total, manifest.sparsity, manifest.masked) == (2, 6, 1 - 2 / 6, ("a",))
    assert Manifest.parse(manifest.to_json()) == manifest


def test_the_name_that_safetensors_keeps_for_itself(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("__metadata__", torch.ones(2))
    with pytest.raises(BadInput, match="__metadata__: safetensors keeps this name"):
        save(tmp_path / "x", describe(model), Mask({}))
    assert not (tmp_path / "x").exists()


def test_the_dense_file_has_the_shapes_and_dtypes_of_the_packed_one(tmp_path: Path) -> None:
    """Equal bytes are not enough."""
    save(tmp_path / "x", *pruned(nn.Linear(16, 12)))
    file = tmp_path / "x" / DENSE
    tensors = load_file(file)
    for name, changed in (
        ("weight", tensors["weight"].reshape(16, 12)),
        ("bias", tensors["bias"].view(torch.int32)),
    ):
        save_file(tensors | {name: changed}, file, {"format": "pt"})
        with pytest.raises(CheckpointError, match=f"{name}: it is not the tensor"):
            inspect(tmp_path / "x", verify=True)
    save_file(tensors, file, {"format": "pt"})
    assert inspect(tmp_path / "x", verify=True)["verified"] == {"packed": 2, "dense": 2}
