"""Opening: references need no torch, equal seeds give equal models, bad input gets one clear line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sigprune.base.errors import BadInput, UnknownName, UnsupportedModel
from sigprune.base.tensors import digest
from sigprune.checkpoint.save import save
from sigprune.families.adapters import adapters
from sigprune.init.reinit import reinit_
from sigprune.models.opening import class_args, describe, open_model, parse_ref
from sigprune.propagation.findings import verify
from sigprune.propagation.repair import restore_
from sigprune.pruning.choose import apply_, prune
from sigprune.pruning.masked_optimizer import hold
from sigprune.sources.reference import ModelRef
from sigprune.values.batch import Batch
from sigprune.values.mask import Mask
from sigprune.values.operator import jacobian


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("timm:resnet18", ModelRef("library", "timm", "resnet18")),
        ("transformers:bert", ModelRef("library", "transformers", "bert")),
        ("torch:a.b.c", ModelRef("library", "torch", "a.b.c")),
        ("timm/resnet18.a1_in1k", ModelRef("hub", None, "timm/resnet18.a1_in1k")),
        ("timm:user/repo@v2", ModelRef("hub", "timm", "user/repo", "v2")),
        ("transformers:hf-hub:user/repo", ModelRef("hub", "transformers", "user/repo")),
        ("user/repo@v1.0", ModelRef("hub", None, "user/repo", "v1.0")),
        ("hf-hub:user/repo@refs/pr/1", ModelRef("hub", None, "user/repo", "refs/pr/1")),
    ],
)
def test_references(ref, expected):
    assert parse_ref(ref) == expected
    assert parse_ref(str(expected)) == expected


def test_a_folder_is_a_reference(tmp_path):
    expected = ModelRef("folder", None, str(tmp_path))
    assert parse_ref(str(tmp_path)) == parse_ref(str(expected)) == expected


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("resnet18", r"did you mean timm:resnet18\?"),
        ("bertt", r"did you mean .*transformers:bert\?"),
        ("vit_tiny_patch16_22", r"did you mean timm:vit_tiny_patch16_224"),
        ("resnet", r"did you mean transformers:resnet\?"),
        ("qqqqqqqqqq", r"or a folder$"),
        ("tim:resnet18", "unknown library 'tim'; did you mean timm"),
        ("timm:", "names no model"),
        ("./no/such/folder", "no such folder"),
        ("a/b/c", "no model reference"),
        ("user/repo@", "no model reference"),
        ("", "no model reference"),
        ("~nosuchuser/x", "no such folder"),
        ("x" * 5000, "no model reference"),
    ],
)
def test_bad_references(ref, message):
    with pytest.raises(BadInput, match=message) as caught:
        parse_ref(ref)
    assert "\n" not in str(caught.value)


def test_two_revisions_contradict():
    assert parse_ref("user/repo", "main").revision == "main"
    with pytest.raises(BadInput, match="two revisions"):
        parse_ref("user/repo@main", "v2")
    with pytest.raises(BadInput, match="revision chooses pretrained weights"):
        open_model("timm:test_vit", revision="main")


def test_parsing_imports_no_heavy_library():
    code = (
        "import sys; from sigprune.models.opening import class_args, parse_ref; parse_ref('timm:resnet18'); "
        "class_args('timm:resnet18', 3); "
        "print([m for m in ('torch', 'timm', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("ref", "args"),
    [
        ("timm:test_vit", {"num_classes": 3}),
        (
            "transformers:bert",
            {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9},
        ),
        ("torch:torch.nn.Linear", {"in_features": 4, "out_features": 3}),
    ],
)
def test_equal_seeds_give_equal_weights(ref, args):
    state = torch.get_rng_state()
    one, same, other = (open_model(ref, args=args, seed=seed) for seed in (1, 1, 2))
    assert digest(one.state_dict()) == digest(same.state_dict()) != digest(other.state_dict())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_local_folders_say_which_library(library, tmp_path):
    args = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    ref = {"timm": "timm:test_vit", "transformers": "transformers:vit"}[library]
    model = open_model(ref, args=args if library == "transformers" else {"num_classes": 5})
    adapters.get(library).write_config(model, tmp_path)
    opened = open_model(str(tmp_path))
    assert type(opened) is type(model)
    assert describe(opened).library == library
    key = {"timm": "num_classes", "transformers": "num_labels"}[library]
    assert class_args(str(tmp_path), 4) == {key: 4}
    resized = describe(open_model(str(tmp_path), args={key: 4}))
    assert [w.shape[0] for w in resized.weights if w.role == "head"] == [4]


def test_folders_of_torch_models_and_of_nothing(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"library": "torch", "class": "torch.nn.Linear"}))
    for pretrained in (False, True):
        with pytest.raises(BadInput, match=r"sigprune\.load\(folder, into=model\)"):
            open_model(str(tmp_path), pretrained=pretrained)
    config.write_text("{}")
    with pytest.raises(BadInput, match="neither model_type"):
        open_model(str(tmp_path))
    config.write_text("[")
    with pytest.raises(BadInput, match=r"config\.json: expected JSON, got"):
        open_model(str(tmp_path))


def test_a_repository_that_cannot_be_reached():
    with pytest.raises(BadInput, match=r"config\.json is not in the cache") as caught:
        open_model("nobody/no-such-model", pretrained=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match=r"timm/test_vit.* model\.safetensors is not in the cache") as caught:
        open_model("timm:test_vit", pretrained=True)
    assert "\n" not in str(caught.value)


def test_a_repository_in_the_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789012345678901234567890123456789"
    repository = tmp_path / "models--user--repo"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    model = open_model("timm:test_vit", args={"num_classes": 5})
    adapters.get("timm").write_config(model, repository / "snapshots" / commit)
    assert open_model("user/repo").num_classes == 5
    assert class_args("user/repo@main", 2) == {"num_classes": 2}


def test_class_args():
    assert class_args("transformers:bert", 4) == {"num_labels": 4}
    assert class_args("torch:a.b", 4) == {}


# ---- describe


def test_the_adapter_is_chosen_by_the_model():
    assert describe(open_model("timm:test_vit")).library == "timm"
    assert describe(nn.Linear(2, 3)).library == "torch"


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(5, 2), (1, 5)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (1, 3, 32, 32)),
        (nn.Conv1d(2, 4, 3), (1, 2, 32)),
        (nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 2)), (1, 16)),
    ],
)
def test_the_example_follows_the_first_layer(module, shape):
    view = describe(module)
    assert tuple(view.example.inputs["input"].shape) == shape
    with torch.no_grad():
        assert torch.equal(view.forward({}, view.example), module(view.example.inputs["input"]))


def test_an_example_of_ones_own():
    x = torch.zeros(2, 3, 8, 8, dtype=torch.float64)
    module = nn.Conv2d(3, 4, 3)
    for example in (x, {"input": x}, Batch({"input": x}), (x, torch.tensor([0, 1]))):
        batch = describe(module, example=example).example
        assert batch.labels is None
        assert batch.inputs["input"].shape == x.shape
        assert batch.inputs["input"].dtype == torch.float32


def test_what_may_be_pruned():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    assert describe(model).prunable == ("0.weight", "1.weight", "2.weight")
    assert describe(model, exclude=("head",)).prunable == ("0.weight", "1.weight")
    assert describe(model, include=("0.*",), biases=True).prunable == ("0.weight", "0.bias")
    with pytest.raises(BadInput, match="matches no weight"):
        describe(model, exclude=("nothing",))
    assert describe(model, batchnorm="eval").batchnorm == "eval"


def test_several_outputs_and_logits():
    class Pair(nn.Linear):
        def forward(self, x):
            return (super().forward(x), x)

    class Named(nn.Linear):
        def forward(self, x):
            return {"features": x, "logits": super().forward(x)}

    for kind in (Pair, Named):
        view = describe(kind(3, 2))
        assert view.forward({}, view.example).shape == (1, 2)


def test_unknown_library_lists_the_known():
    with pytest.raises(UnknownName, match="timm"):
        open_model("tinm:resnet18")


def test_verbs_say_what_they_expect_instead_of_a_model(tmp_path):
    model, mask = nn.Linear(4, 4), Mask({})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls = [
        lambda: prune(model, sparsity=0.5, score="random"),
        lambda: reinit_(model),
        lambda: restore_(model, mask),
        lambda: apply_(model, mask),
        lambda: hold(model, mask, optimizer).__enter__(),
        lambda: save(tmp_path / "out", model, mask),
        lambda: jacobian(model, torch.zeros(1, 4)),
        lambda: verify(model, torch.zeros(1, 4)),
    ]
    for call in calls:
        with pytest.raises(BadInput, match=r"expected a View, got Linear; make one .*describe\(model\)"):
            call()
    with pytest.raises(UnsupportedModel, match=r"got str; open_model\(name\) opens a model by name"):
        describe("timm:resnet18")
    with pytest.raises(BadInput, match=r"inits: expected a name, or MemberSpec\(name, options\), got \{"):
        reinit_(describe(model), {"name": "orthogonal"})


def test_values_introduce_themselves_in_a_line():
    view = describe(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)))
    assert repr(view) == "View(Sequential of torch: 2 weights, 2 prunable, 2 parameters skipped, 0 gates)"
    assert repr(prune(view, sparsity=0.5, score="random")) == "Mask(2 weights, 24 of 48 entries kept)"


def test_where_a_name_of_a_model_makes_no_sense_no_library_is_asked(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from sigprune.base.errors import CheckpointError\n"
        "from sigprune.checkpoint.locate import packed_folder\n"
        "try: packed_folder('bertt')\n"
        "except CheckpointError as error: print(error, bool({'timm', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stdout.startswith("bertt: ")
    assert done.stdout.endswith(" False\n")
