"""The manifest repeats what of config.json makes the network: edits are refused, by name, unless accepted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import transformers

from sigprune.base.errors import CheckpointError
from sigprune.checkpoint.conversion import convert
from sigprune.checkpoint.inspection import check, inspect
from sigprune.checkpoint.prune_shards import prune_files
from sigprune.checkpoint.read import load
from sigprune.format.index import read_manifest
from sigprune.format.manifest import SCHEMA
from sigprune.format.network_config import network_of
from sigprune.hub.upload_plan import plan_push

FOLDERS = Path(__file__).parents[1] / "fixtures" / "release-0.1.0"
READERS: dict[str, Callable[[Path], object]] = {
    "load": load,
    "load(verify)": lambda folder: load(folder, verify=True),
    "inspect(verify)": lambda folder: inspect(folder, verify=True),
    "convert to dense": lambda folder: convert(folder, folder.parent / "dense", to="dense"),
    "convert to packed": lambda folder: convert(folder, folder.parent / "packed"),
    "push": lambda folder: plan_push(folder, "user/x"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the first release, written anew."""
    home = tmp_path_factory.mktemp("written")
    for name in ("timm", "transformers", "shards"):
        convert(FOLDERS / name, home / name, to="both", max_shard_bytes=2000 if name == "shards" else 10**9)
    return {path.name: path for path in home.iterdir()}


@pytest.fixture
def folder(request: pytest.FixtureRequest, written: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(written[getattr(request, "param", "transformers")], tmp_path / "x"))


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config, indent=4))


EDITS: dict[str, tuple[str, Callable[[dict], object]]] = {
    "layer_norm_eps": ("transformers", lambda c: c.update(layer_norm_eps=0.1)),
    "hidden_act": ("shards", lambda c: c.update(hidden_act="relu")),
    "is_decoder": ("transformers", lambda c: c.update(is_decoder=True)),
    "pad_token_id": ("transformers", lambda c: c.update(pad_token_id=None)),
    "num_attention_heads": ("shards", lambda c: c.update(num_attention_heads=4)),
    "position_embedding_type": ("transformers", lambda c: c.update(position_embedding_type="relative_key")),
    "tie_word_embeddings": ("transformers", lambda c: c.pop("tie_word_embeddings")),
    "architectures.0": ("transformers", lambda c: c.update(architectures=["BertModel"])),
    "model_args.num_heads": ("timm", lambda c: c["model_args"].update(num_heads=4)),
    "model_args.act_layer": ("timm", lambda c: c["model_args"].update(act_layer="relu")),
    "global_pool": ("timm", lambda c: c.update(global_pool="avg")),
}


@pytest.mark.parametrize(("key", "folder"), [(key, EDITS[key][0]) for key in EDITS], indirect=["folder"])
def test_an_edit_that_makes_another_network_is_named_by_every_reader(folder: Path, key: str) -> None:
    edit(folder, EDITS[key][1])
    for name, read in READERS.items():
        with pytest.raises(
            CheckpointError, match=rf"config\.json: {key}: the weights were written with"
        ) as e:
            read(folder)
        assert "--accept-config" in str(e.value), name


def test_transformers_itself_refuses_an_edit_beside_the_packed_files(folder: Path) -> None:
    edit(folder, lambda c: c.update(layer_norm_eps=0.1))
    with pytest.raises(CheckpointError, match="layer_norm_eps"):
        transformers.AutoModelForMaskedLM.from_pretrained(folder, variant="sparse")
    edit(folder, lambda c: c.update(layer_norm_eps=1e-12))
    changed = transformers.AutoModelForMaskedLM.from_pretrained(folder, variant="sparse", layer_norm_eps=0.1)
    assert changed.config.layer_norm_eps == 0.1  # what is asked for in code needs no file


def test_a_meant_edit_is_accepted_once(folder: Path, tmp_path: Path) -> None:
    edit(folder, lambda c: c.update(layer_norm_eps=0.1))
    convert(folder, tmp_path / "new", to="both", accept_config=True)
    found = load(tmp_path / "new", verify=True)
    assert found.model.config.layer_norm_eps == 0.1
    assert found.manifest.network["layer_norm_eps"] == 0.1
    assert found.manifest.mask_digest == read_manifest(folder).mask_digest
    into = transformers.BertForMaskedLM(transformers.BertConfig.from_pretrained(folder))
    load(folder, into=into)  # a model of one's own needs no config.json


@pytest.mark.parametrize("folder", ["transformers", "timm"], indirect=True)
def test_what_belongs_to_the_user_may_be_edited(folder: Path) -> None:
    def change(config: dict) -> None:
        config.update(
            id2label={"0": "no", "1": "yes"}, label2id={"no": 0, "yes": 1}, transformers_version="6.0.0",
            dtype="bfloat16", use_cache=False, label_names=["a", "b", "c"],
        )  # fmt: skip
        if "pretrained_cfg" in config:
            config["pretrained_cfg"].update(mean=[0.1], std=[0.2], crop_pct=1.0, input_size=[1, 32, 32])

    edit(folder, change)
    (folder / "generation_config.json").write_text('{"temperature": 2.0}')
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.0]}')
    check(folder)


def test_the_libraries_may_write_the_configuration_again(written: dict[str, Path], tmp_path: Path) -> None:
    for name in ("transformers", "shards"):
        folder = Path(shutil.copytree(written[name], tmp_path / name))
        transformers.AutoConfig.from_pretrained(folder).save_pretrained(folder)
        check(folder)
        transformers.AutoModelForMaskedLM.from_pretrained(folder).config.save_pretrained(folder)
        check(folder)
    folder = Path(shutil.copytree(written["timm"], tmp_path / "timm"))
    model = timm.create_model(f"local-dir:{folder}")
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    load(folder)


def test_there_and_back_again_stays_valid(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "dense", to="dense")
    convert(tmp_path / "dense", tmp_path / "packed")
    prune_files(tmp_path / "dense", tmp_path / "pruned", sparsity=0.8)
    first = read_manifest(folder)
    for name in ("packed", "pruned"):
        load(tmp_path / name, verify=True)
        assert read_manifest(tmp_path / name).network == first.network
    assert first.schema == SCHEMA
    assert first.network["layer_norm_eps"] == 1e-12


def test_numbers_are_compared_by_value_and_truth_values_are_none(folder: Path) -> None:
    edit(folder, lambda c: c.update(attention_probs_dropout_prob=1e-1, hidden_size=8.0))
    check(folder)
    edit(folder, lambda c: c.update(type_vocab_size=True, num_hidden_layers=True))
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        check(folder)


def test_configurations_inside_one_another_and_infinities() -> None:
    inner = {"model_type": "a", "dtype": "float32", "eps": float("inf"), "id2label": {}}
    config = {"text_config": inner, "quantization_config": {}, "limit": [float("-inf"), float("nan")]}
    assert network_of(config) == {
        "text_config": {"model_type": "a", "eps": {"__float__": "Infinity"}},
        "limit": [{"__float__": "-Infinity"}, {"__float__": "NaN"}],
    }


def test_all_files_of_a_model_agree_on_the_network(written: dict[str, Path], tmp_path: Path) -> None:
    """Files of two saves under one index are refused."""
    folder = Path(shutil.copytree(written["shards"], tmp_path / "x"))
    edit(folder, lambda c: c.update(layer_norm_eps=0.1))
    convert(folder, tmp_path / "y", to="both", max_shard_bytes=2000, accept_config=True)
    name = "model.sparse-00001-of-00002.safetensors"
    shutil.copyfile(tmp_path / "y" / name, folder / name)
    with pytest.raises(CheckpointError, match="the index expects the manifest"):
        check(folder)
    assert torch.equal(
        *(load(p).model.bert.embeddings.word_embeddings.weight for p in (written["shards"], tmp_path / "y"))
    )
