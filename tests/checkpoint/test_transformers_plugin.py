"""transformers reads packed files by itself, and nothing reads them wrongly in silence."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import transformers
from torch import nn

from sigprune.base.errors import CheckpointError
from sigprune.checkpoint.read import load
from sigprune.checkpoint.save import save
from sigprune.checkpoint.transformers_hook import install
from sigprune.families.codecs import codecs
from sigprune.format.names import PACKED, PACKED_INDEX, packed_shard
from sigprune.models.opening import describe, open_model
from sigprune.pruning.choose import apply_, prune
from tests.checkpoint.test_checkpoint import LIBRARIES, assert_same_bits, pruned, rewrite
from tests.support.shrinking import shrunk

MODELS = [ref for ref in LIBRARIES if ref.startswith("transformers:")]


@pytest.fixture(scope="module", params=MODELS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A pruned model, and the folder it was saved to."""
    model = open_model(request.param, args=LIBRARIES[request.param]).eval()
    view, mask = pruned(model)
    folder = tmp_path_factory.mktemp("native") / "x"
    save(folder, view, mask)
    return model, folder


@pytest.mark.parametrize("variant", [None, "sparse"])
def test_both_files_give_the_model(made: tuple[nn.Module, Path], variant: str | None, tmp_path: Path) -> None:
    model, folder = made
    loaded, told = type(model).from_pretrained(folder, variant=variant, output_loading_info=True)
    assert not any(told.values()), told
    assert_same_bits(loaded, model)
    assert not getattr(loaded, "is_quantized", False)
    assert not hasattr(loaded.config, "quantization_config")
    assert all(p.requires_grad for p in loaded.parameters())
    loaded.half().float().save_pretrained(tmp_path / "again")  # refused for models that stay quantized
    assert_same_bits(type(model).from_pretrained(tmp_path / "again"), loaded)


@pytest.mark.filterwarnings("ignore")  # the library's own deprecations
@pytest.mark.parametrize("model_type", ["qwen2_moe", "deepseek_v3", "nemotron_h"])
def test_experts_beside_layers_of_the_same_last_name(model_type: str, tmp_path: Path) -> None:
    """Stacked experts are named down_proj, plain layers down_proj.weight."""
    model = shrunk(model_type).eval()
    view = describe(model)
    mask = prune(view, sparsity=0.75, score="magnitude")
    apply_(view, mask)
    save(tmp_path / "x", view, mask)
    loaded, told = type(model).from_pretrained(tmp_path / "x", variant="sparse", output_loading_info=True)
    assert not any(told.values()), told
    assert_same_bits(loaded, model)


@pytest.mark.parametrize("codec", codecs.names())
def test_every_codec_is_decoded(codec: str, tmp_path: Path) -> None:
    model = open_model("transformers:bert", args=LIBRARIES["transformers:bert"])
    if codec == "two_four":
        view, mask = pruned(model, 0.5, pattern="n_m", allocation="uniform")
    else:
        view, mask = pruned(model, 0.5)
    save(tmp_path / "x", view, mask, codec=codec)
    assert_same_bits(type(model).from_pretrained(tmp_path / "x", variant="sparse"), model)
    assert load(tmp_path / "x", verify=True).mask == mask


def test_missing_parts_are_an_error_and_no_random_weights(
    made: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    model, folder = made
    shutil.copytree(folder, tmp_path / "x")
    name = load(folder).manifest.masked[0]

    def lose(tensors: dict[str, torch.Tensor], _metadata: dict[str, str]) -> None:
        for part in [part for part in tensors if part.startswith(name)]:
            del tensors[part]

    rewrite(tmp_path / "x", lose)
    with pytest.raises(CheckpointError, match=f"{re.escape(name)}.*: missing from the file"):
        type(model).from_pretrained(tmp_path / "x", variant="sparse")


def test_files_of_another_save_and_a_lying_index_are_refused(tmp_path: Path) -> None:
    model = open_model("transformers:bert", args=LIBRARIES["transformers:bert"]).eval()
    view, mask = pruned(model, 0.5)
    save(tmp_path / "x", view, mask, max_shard_bytes=4000)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    save(tmp_path / "y", view, mask, max_shard_bytes=4000)
    text = (tmp_path / "x" / PACKED_INDEX).read_text()
    index = json.loads(text)
    part, file = next(iter(index["weight_map"].items()))
    index["weight_map"][part] = packed_shard(2, 99) if file != packed_shard(2, 99) else packed_shard(1, 99)
    (tmp_path / "x" / PACKED_INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="weight_map does not name"):
        load(tmp_path / "x")
    (tmp_path / "x" / PACKED_INDEX).write_text(text)
    names = sorted(path.name for path in (tmp_path / "x").glob("model.sparse-*"))
    other = next(n for n in names if (tmp_path / "x" / n).read_bytes() != (tmp_path / "y" / n).read_bytes())
    shutil.copyfile(tmp_path / "y" / other, tmp_path / "x" / other)
    with pytest.raises(CheckpointError, match="the index expects the manifest"):
        type(model).from_pretrained(tmp_path / "x", variant="sparse")


def test_several_files(made: tuple[nn.Module, Path], tmp_path: Path) -> None:
    model = made[0]
    view, mask = pruned(model)
    files = save(tmp_path / "x", view, mask, max_shard_bytes=4000)
    assert PACKED not in files
    assert sum(name.startswith("model.sparse-") for name in files) > 2
    assert_same_bits(type(model).from_pretrained(tmp_path / "x", variant="sparse"), model)
    assert_same_bits(type(model).from_pretrained(tmp_path / "x"), model)
    checkpoint = load(tmp_path / "x", verify=True)
    assert_same_bits(checkpoint.model, model)
    assert checkpoint.mask == mask
    assert PACKED_INDEX in files


def test_other_dtypes_and_other_heads(made: tuple[nn.Module, Path]) -> None:
    model, folder = made
    half = type(model).from_pretrained(folder, variant="sparse", dtype=torch.float16)
    for name, value in half.named_parameters():
        assert torch.equal(value, model.get_parameter(name).half()), name
    base = transformers.AutoModel.from_pretrained(folder, variant="sparse")
    inner = dict(model.base_model.named_parameters())
    assert all(torch.equal(p, inner[name]) for name, p in base.named_parameters() if name in inner)


@pytest.mark.parametrize("variant", [None, "sparse"])
@pytest.mark.parametrize("ignore", [False, True])
def test_no_tensor_has_another_shape_than_its_configuration(
    tmp_path: Path, variant: str | None, *, ignore: bool
) -> None:
    """Older transformers set tensors of any shape where a quantizer is at work; the plug-in refuses them."""
    model = open_model("transformers:vit", args=LIBRARIES["transformers:vit"] | {"num_labels": 7}).eval()
    save(tmp_path / "x", *pruned(model))
    options = {"num_labels": 3, "ignore_mismatched_sizes": ignore, "variant": variant}
    loaded, refusal = None, None
    try:
        loaded = type(model).from_pretrained(tmp_path / "x", **options)
    except (CheckpointError, RuntimeError) as error:
        refusal = error
    if loaded is None:
        assert not ignore or isinstance(refusal, CheckpointError)
        assert "ignore_mismatched_sizes" in str(refusal)
    else:
        assert ignore
        assert loaded.classifier.weight.shape == (3, model.config.hidden_size)


def test_shapes_are_compared_whatever_the_transformers() -> None:
    from sigprune.checkpoint.transformers_plugin import _expect_shapes  # only once the plug-in is there

    model, split = nn.Linear(3, 2), nn.Linear(3, 2)
    shapes = {"weight": torch.Size([2, 3]), "bias": torch.Size([2])}
    _expect_shapes(model, shapes)
    split._tp_size = 2
    for one in (model, split):
        one.weight = nn.Parameter(torch.ones(1, 3))
    _expect_shapes(split, shapes)
    with pytest.raises(CheckpointError, match=r"weight: .* the shape \(2, 3\), the files have \(1, 3\)"):
        _expect_shapes(model, shapes)


def test_damage_is_an_error(tmp_path: Path) -> None:
    model = open_model("transformers:bert", args=LIBRARIES["transformers:bert"])
    save(tmp_path / "x", *pruned(model))

    def flip(tensors: dict[str, torch.Tensor], _: object) -> None:
        next(t for name, t in tensors.items() if name.endswith("_sparse_bits"))[0] ^= 1

    rewrite(tmp_path / "x", flip)
    with pytest.raises(RuntimeError, match="conversion of the weights"):
        type(model).from_pretrained(tmp_path / "x", variant="sparse")


WITHOUT = """
import sys, transformers
for place in sys.argv[1:]:
    folder, _, kind = place.rpartition(":")
    kind = getattr(transformers, kind)
    model, told = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    try:
        kind.from_pretrained(folder, variant="sparse")
    except RuntimeError as error:
        print("refused")
assert not any(name.startswith("sigprune") for name in sys.modules)
"""


@pytest.mark.slow
def test_without_the_plug_in_the_packed_file_is_refused(tmp_path: Path) -> None:
    """Never random weights in silence: its parts have shapes that no parameter has."""
    places = []
    for number, ref in enumerate(MODELS):
        model = open_model(ref, args=LIBRARIES[ref])
        save(tmp_path / str(number), *pruned(model))
        places.append(f"{tmp_path / str(number)}:{type(model).__name__}")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *places], capture_output=True, text=True, check=False, timeout=3600
    )
    assert (done.returncode, done.stdout) == (0, "refused\n" * len(MODELS)), done.stderr


@pytest.mark.parametrize("bias", [True, False])
def test_timm_refuses_the_packed_file(tmp_path: Path, bias: bool) -> None:
    model = open_model("timm:test_resnet", args={"num_classes": 5})
    view, mask = pruned(model, 0.5, biases=bias)
    save(tmp_path / "x", view, mask)
    (tmp_path / "x" / "model.safetensors").unlink()
    with pytest.raises(RuntimeError, match="state_dict"):
        timm.create_model(f"local-dir:{tmp_path / 'x'}", pretrained=True)


ORDERS = {
    "sigprune first": "import sigprune, sys; assert 'torch' not in sys.modules; import transformers",
    "transformers first": "from transformers import AutoModel, BertModel; import sigprune",
}


@pytest.mark.parametrize(
    "order", ["transformers first", pytest.param("sigprune first", marks=pytest.mark.slow)]
)
def test_either_import_may_come_first(order: str) -> None:
    code = (
        f"{ORDERS[order]}\n"
        "from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING as known\n"
        "assert 'sigprune' in known\n"
        "import transformers.quantizers.auto as home\n"
        "assert type(home.__spec__.loader).__module__ != 'sigprune.checkpoint.transformers_hook'\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code],
        capture_output=True, text=True, check=False, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_installing_again_does_nothing() -> None:
    before = list(sys.meta_path)
    install()
    assert sys.meta_path == before
