"""Opening a folder follows no name out of it: no request is sent and no pickle read, whatever it says."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import timm
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import save_file

from sigprune.base.errors import BadInput, CheckpointError
from sigprune.base.tensors import digest
from sigprune.checkpoint.conversion import convert
from sigprune.checkpoint.inspection import inspect
from sigprune.checkpoint.prune_shards import prune_files
from sigprune.checkpoint.read import load, load_mask
from sigprune.checkpoint.save import save
from sigprune.cli.app import main
from sigprune.families.adapters import adapters
from sigprune.hub.upload_plan import plan_push
from sigprune.models.opening import open_model
from sigprune.recipe.recipe import parse_recipe
from tests.checkpoint.test_checkpoint import LIBRARIES, pruned

WRAPPER = {
    "model_type": "timm_wrapper",
    "architecture": "test_resnet",
    "num_classes": 5,
    "architectures": ["TimmWrapperForImageClassification"],
}
TIMM = {"architecture": "test_resnet", "num_classes": 5, "pretrained_cfg": {"num_classes": 5}}
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "vocab_size": 20, "architectures": ["BertModel"]}  # fmt: skip
DETR = {"model_type": "detr", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}  # fmt: skip
ELSEWHERE = "hf-hub:user/repo"
HOSTILE: Mapping[str, Mapping[str, object]] = {
    "wrapper of a repository": WRAPPER | {"architecture": ELSEWHERE},
    "wrapper of a folder": WRAPPER | {"architecture": "local-dir:/tmp"},
    "wrapper of an address": WRAPPER | {"architecture": "https://example.org/x"},
    **{
        f"wrapper with {key}": WRAPPER | {"model_args": {key: value}}
        for key, value in {
            "checkpoint_path": "evil.pth",
            "cache_dir": "elsewhere",
            "pretrained": True,
            "pretrained_cfg": {"url": "https://example.org/x.pth"},
            "pretrained_cfg_overlay": {"file": "evil.pth"},
            "features_only": True,
            "act_layer": "torch.nn:GELU",
            "global_pool": "../evil.pth",
            "depths": {"a": ["/etc/passwd"]},
        }.items()
    },
    **{
        f"timm with {key}": TIMM | {"model_args": {key: value}}
        for key, value in {"checkpoint_path": "evil.pth", "pretrained": True, "cache_dir": "x"}.items()
    },
    "timm of a repository": TIMM | {"architecture": ELSEWHERE},
    "backbone": {"model_type": "timm_backbone", "backbone": ELSEWHERE, "architectures": ["TimmBackbone"]},
    "backbone unknown": {"model_type": "timm_backbone", "backbone": "x", "architectures": ["TimmBackbone"]},
    **{
        f"{kind} of a {what}": {"model_type": kind, **fields}
        for kind in ("detr", "dpt", "maskformer", "rt_detr")
        for what, fields in {
            "repository": {"backbone": "user/repo", "use_timm_backbone": False},
            "source": {"backbone": ELSEWHERE},
            "nested source": {"backbone_config": {"model_type": "timm_backbone", "backbone": ELSEWHERE}},
            "checkpoint": {"backbone": "resnet18", "backbone_kwargs": {"checkpoint_path": "evil.pth"}},
        }.items()
    },
    "nested wrapper": {"model_type": "fast_vlm", "vision_config": WRAPPER | {"architecture": ELSEWHERE}},
    "nested checkpoint": {
        "model_type": "fast_vlm",
        "vision_config": WRAPPER | {"model_args": {"checkpoint_path": "evil.pth"}},
    },
    "weights that are a pickle": BERT | {"transformers_weights": "pytorch_model.bin"},
    "levels": BERT | {"a": json.loads("[" * 100 + "]" * 100)},
}  # fmt: skip
HARMLESS: Mapping[str, Mapping[str, object]] = {
    "kernel of the hub": BERT | {"attn_implementation": "user/kernel:attention"},
    "code of its own": BERT
    | {"auto_map": {"AutoModel": "user/repo--code.Model", "AutoConfig": "code.Config"}},
    "another file": BERT | {"configuration_files": ["config.0.0.1.json"]},
    "name": BERT | {"_name_or_path": "user/repo"},
    "pretrained backbone": DETR | {"backbone": "test_resnet", "use_pretrained_backbone": True},
    "asked backbone": {"model_type": "upernet", "backbone": "test_resnet", "use_timm_backbone": False},
}


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What tried to leave the folder; a client that thinks itself online, without anything to reach."""
    tried: list[str] = []

    def refused(what: str) -> Callable[..., None]:
        def refuse(*given: object, **_: object) -> None:
            tried.append(f"{what} {given[:2]}")
            raise RuntimeError(f"{what} is not for folders")

        return refuse

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refused("an address"))
    monkeypatch.setattr(socket.socket, "connect", refused("a connection"))
    monkeypatch.setattr(torch, "load", refused("torch.load"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refused("a download"))
    monkeypatch.setattr(pickle, "load", refused("pickle.load"))
    monkeypatch.setattr(pickle, "Unpickler", refused("pickle.Unpickler"))
    yield tried
    assert tried == []


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("references") / "packed"
    save(folder, *pruned(open_model("transformers:bert", args=LIBRARIES["transformers:bert"])))
    return folder


def written(folder: Path, config: Mapping[str, object]) -> Path:
    """A dense folder with this configuration, and pickles around it."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(2, 2)}, folder / "model.safetensors")
    for name in ("evil.pth", "pytorch_model.bin", "spk_dict.pt"):
        (folder / name).write_bytes(pickle.dumps({"x": 1}))
    return folder


def native(folder: Path) -> object:
    return transformers.AutoModel.from_pretrained(folder, variant="sparse")


DENSE: Mapping[str, Callable[[Path], object]] = {
    "open": lambda folder: open_model(str(folder)),
    "open pretrained": lambda folder: open_model(str(folder), pretrained=True),
    "convert": lambda folder: convert(folder, folder.parent / "y"),
    "by shard": lambda folder: prune_files(folder, folder.parent / "y", sparsity=0.5),
    "show": lambda folder: main(["show", str(folder), "--fresh", "--quiet"]),
}
PACKED: Mapping[str, Callable[[Path], object]] = {
    "load": load,
    "load mask": load_mask,
    "inspect": lambda folder: inspect(folder, verify=True),
    "convert": lambda folder: convert(folder, folder.parent / "y", to="dense"),
    "push": lambda folder: plan_push(folder, "user/net"),
    "native": native,
}
WITHOUT_MODEL = {"load mask", "inspect", "convert", "push"}
"""What builds no model of a packed folder may succeed, or refuse a configuration that its manifest lacks."""


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_leaves_a_hostile_folder(
    attempts: list[str], packed: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = HOSTILE[name]
    folder = written(tmp_path / "x", config)
    for way, verb in DENSE.items():
        if way == "show":
            assert main(["show", str(folder), "--fresh", "--quiet"]) == (
                0 if name == "weights that are a pickle" else 2
            )
            assert capsys.readouterr().err.count("\n") <= 1
        elif (way, name) != ("open", "weights that are a pickle"):  # fresh weights need no file
            with pytest.raises(BadInput) as caught:
                verb(folder)
            assert "\n" not in str(caught.value), way
            assert "is not for folders" not in str(caught.value), way
        shutil.rmtree(tmp_path / "y", ignore_errors=True)
    other = shutil.copytree(packed, tmp_path / "z")
    stored = {"quantization_config": {"quant_method": "sigprune", "schema": 1}}
    (other / "config.json").write_text(json.dumps({**config, **stored}))
    for way, verb in PACKED.items():
        # what transformers itself looks up while it reads config.json, it does before it asks anybody
        asks = way == "native" and ("backbone" in config or "model_type" not in config)
        if way in WITHOUT_MODEL:
            with contextlib.suppress(CheckpointError):
                verb(other)
        elif not asks:
            with pytest.raises((BadInput, ValueError, OSError)):
                verb(other)
    assert attempts == []


@pytest.mark.parametrize("name", HARMLESS)
def test_what_says_nothing_of_the_model_is_left_aside(attempts: list[str], tmp_path: Path, name: str) -> None:
    folder = written(tmp_path / "x", HARMLESS[name])
    (folder / "config.0.0.1.json").write_text(json.dumps(WRAPPER | {"architecture": ELSEWHERE}))
    if HARMLESS[name]["model_type"] != "upernet":
        model = open_model(str(folder))
        assert not set(vars(model.config)) & {"auto_map", "configuration_files"}
        assert model.config.name_or_path == str(folder)
    else:
        with pytest.raises(BadInput, match="has no model"):  # the configuration was read
            open_model(str(folder))
    assert attempts == []


@pytest.mark.parametrize(
    ("ref", "args"),
    [
        ("timm:test_vit", {"pretrained": True}),
        ("timm:test_vit", {"checkpoint_path": "evil.pth"}),
        ("timm:test_vit", {"cache_dir": "x"}),
        ("timm:test_vit", {"global_pool": "https://example.org"}),
        ("transformers:timm_wrapper", {"architecture": ELSEWHERE}),
        (
            "transformers:timm_wrapper",
            {"architecture": "test_resnet", "model_args": {"checkpoint_path": "x"}},
        ),
        ("transformers:timm_backbone", {"backbone": ELSEWHERE}),
        ("transformers:detr", {"backbone_config": {"backbone": ELSEWHERE, "model_type": "timm_backbone"}}),
        ("transformers:bert", {"attn_implementation": "user/kernel"}),
    ],
)
def test_arguments_in_recipes(attempts: list[str], ref: str, args: dict[str, object]) -> None:
    """A recipe is data too."""
    recipe = parse_recipe({"model": {"ref": ref, "args": args}})
    with pytest.raises(BadInput) as caught:
        open_model(recipe.model.ref, args=recipe.model.args)
    assert "is not for folders" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert attempts == []


def test_classes_that_read_more_than_weights(attempts: list[str], tmp_path: Path) -> None:
    """A timm backbone would fetch a model of the folder's name, speech models a pickle of voices."""
    fields = {"backbone": "test_resnet", "out_indices": [1], "num_channels": 3}
    model = open_model("transformers:timm_backbone", args=fields)
    adapters.get("transformers").write_config(model, tmp_path)
    save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    again = open_model(str(tmp_path), pretrained=True)
    assert digest(again.state_dict()) == digest(model.state_dict())
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "user/repo"}')
    with pytest.raises(BadInput, match="names the model that it adapts"):
        open_model(str(tmp_path), pretrained=True)
    (tmp_path / "adapter_config.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    for stored in ({"quant_method": "fp8"}, "gptq"):
        (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": stored}))
        with pytest.raises(BadInput, match=r"weights are stored as (fp8|gptq); expected plain tensors"):
            open_model(str(tmp_path), pretrained=True)
    assert attempts == []


@pytest.mark.parametrize("kind", ["detr", "conditional_detr"])
def test_a_backbone_by_name_is_the_one_that_transformers_takes(
    attempts: list[str], tmp_path: Path, kind: str
) -> None:
    fields = {**DETR, "model_type": kind, "backbone": "resnet18", "dilation": True}
    theirs = transformers.CONFIG_MAPPING[kind].from_dict(dict(fields)).to_dict()
    model = open_model(str(written(tmp_path / "x", fields)))
    ours = model.config.to_dict()
    built = {"architectures", "_name_or_path", "stage_names", "out_features", "backbone_config"}
    assert {k: v for k, v in ours.items() if k not in built} == {
        k: v for k, v in theirs.items() if k not in built
    }
    assert ours["backbone_config"]["backbone"] == "resnet18"
    assert ours["backbone_config"]["out_indices"] == theirs["backbone_config"]["out_indices"]
    assert attempts == []


@pytest.mark.parametrize("name", timm.list_models("test_*"))
def test_what_timm_writes_is_let_through(attempts: list[str], tmp_path: Path, name: str) -> None:
    model = timm.create_model(name, num_classes=3, in_chans=1, drop_path_rate=0.1)
    with io.StringIO():
        adapters.get("timm").write_config(model, tmp_path)
    assert digest(open_model(str(tmp_path), args={"num_classes": 4}).state_dict())
    assert attempts == []


@pytest.mark.parametrize("backbone", [ELSEWHERE, "user/repo", "./folder", "C:\\folder"])
def test_a_model_elsewhere_is_named_for_what_it_is(tmp_path: Path, backbone: str) -> None:
    folder = written(tmp_path / "x", DETR | {"backbone": backbone})
    with pytest.raises(BadInput, match=r"names another model .*, and only what lies in it is read"):
        open_model(str(folder))


def test_the_caller_may_choose_kernels_of_the_library_and_no_others(attempts: list[str]) -> None:
    args = LIBRARIES["transformers:bert"]
    model = open_model("transformers:bert", args={**args, "attn_implementation": "eager"})
    assert model.config._attn_implementation == "eager"
    with pytest.raises(
        BadInput, match=r"attn_implementation: expected one of the library's own, got 'user/k"
    ):
        open_model("transformers:bert", args={**args, "attn_implementation": "user/kernel:attention"})
    assert attempts == []
