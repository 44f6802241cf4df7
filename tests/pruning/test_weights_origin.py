"""Where weights come from, and the defaults that depend on it: what is pruned, and how entries compare."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest
import torch

from sigprune.base.errors import BadInput, UnknownName
from sigprune.base.registry import MemberSpec
from sigprune.checkpoint.prune_shards import prune_files
from sigprune.checkpoint.read import load
from sigprune.checkpoint.save import save
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe, open_model
from sigprune.propagation.calibration import calibrate_
from sigprune.propagation.repair import restore_
from sigprune.pruning.choose import apply_, prune
from sigprune.recipe.recipe import load_recipe, parse_recipe, shipped
from sigprune.values.mask import Mask
from sigprune.values.origin import origin_in
from tests.support.networks import labelled, mlp, seeded

BERT = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12,
    "vocab_size": 50, "max_position_embeddings": 16, "task": "text-classification",
}  # fmt: skip
HEAD = "classifier.weight"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A small text classifier as a folder of transformers."""
    folder = tmp_path_factory.mktemp("bert")
    seeded(open_model("transformers:bert", args=BERT)).save_pretrained(folder)
    return folder


def texts() -> list:
    return [{"input_ids": torch.arange(2, 26).reshape(3, 8)}]


def test_models_that_are_opened_say_where_their_weights_come_from(bert):
    assert describe(open_model("timm:test_resnet")).weights_origin == "fresh"
    assert describe(open_model("transformers:bert", args=BERT)).weights_origin == "fresh"
    assert describe(open_model(str(bert), args={"task": "text-classification"})).weights_origin == "fresh"
    assert describe(open_model(str(bert), pretrained=True)).weights_origin == "pretrained"
    own = open_model("torch:torch.nn.Linear", args={"in_features": 3, "out_features": 2})
    assert describe(own).weights_origin == "unknown", "a callable of one's own may load weights"
    assert describe(mlp()).weights_origin == "unknown"


def test_transformers_marks_what_it_loads(bert):
    from transformers import BertForSequenceClassification as Kind

    model = Kind.from_pretrained(bert)
    assert describe(Kind(model.config)).weights_origin == "unknown"
    assert describe(model).weights_origin == "pretrained"
    assert describe(pickle.loads(pickle.dumps(copy.deepcopy(model)))).weights_origin == "pretrained"
    assert "pretrained" in repr(describe(model))


def test_what_is_written_by_others_is_no_longer_fresh(bert):
    model = open_model("transformers:bert", args=BERT)
    model.load_state_dict(open_model(str(bert), pretrained=True).state_dict())
    assert describe(model).weights_origin == "unknown"
    view = describe(open_model("timm:test_resnet"))
    torch.optim.SGD(view.module.parameters(), 0.1).step()
    assert view.weights_origin == "fresh", "no gradient, no step"
    view.forward(view.params(), view.example)
    view.module(view.example.inputs["x"]).sum().backward()
    torch.optim.SGD(view.module.parameters(), 0.1).step()
    assert view.weights_origin == "unknown"


def test_what_sigprune_writes_keeps_the_origin():
    view = describe(open_model("timm:test_resnet", args={"num_classes": 4, "in_chans": 1}))
    reinit_(view)
    assert view.weights_origin == "fresh"
    mask = prune(view, sparsity=0.5, batches=labelled(view, examples=2, batches=1))
    assert view.weights_origin == "fresh", "scoring writes nothing"
    apply_(view, mask)
    restore_(view, mask, MemberSpec("gradient_descent", {"steps": 1}))
    calibrate_(view, torch.ones(2, 1, 32, 32), target=1e-3, tolerance=1e4)
    assert view.weights_origin == "fresh"


def test_redrawn_weights_are_fresh_and_kept_ones_are_not(bert):
    view = describe(open_model(str(bert), pretrained=True))
    reinit_(view, None)
    assert view.weights_origin == "pretrained"
    reinit_(view)
    assert view.weights_origin == "fresh" == describe(view.module).weights_origin


def test_the_caller_knows_better():
    model = mlp()
    assert describe(model, weights_origin="pretrained").weights_origin == "pretrained"
    assert describe(model).prunable == ("0.weight", "2.weight"), "said of the model, for later views too"
    assert describe(model, weights_origin="unknown").weights_origin == "unknown"
    with pytest.raises(UnknownName, match="unknown origin of weights 'trained'"):
        describe(model, weights_origin="trained")


def test_checkpoints_tell_the_origin(tmp_path, bert):
    view = describe(open_model(str(bert), pretrained=True))
    save(tmp_path / "kept", view, Mask({}))
    assert describe(load(tmp_path / "kept").model).weights_origin == "pretrained"
    into = open_model("transformers:bert", args=BERT)
    load(tmp_path / "kept", into=into)
    assert describe(into).weights_origin == "pretrained"
    reinit_(view)
    save(tmp_path / "drawn", view, Mask({}))
    assert describe(load(tmp_path / "drawn").model).weights_origin == "unknown", "trained since, or not"
    assert describe(load(tmp_path / "drawn", into=into).model).weights_origin == "unknown"


@pytest.mark.parametrize(
    ("provenance", "origin"),
    [
        ({}, "unknown"),
        ({"weights_origin": "fresh", "source": "x"}, "fresh"),
        ({"weights_origin": "nonsense"}, "unknown"),
        ({"source": "folder"}, "pretrained"),
        ({"base_model": "user/repo", "revision": "main"}, "pretrained"),
        ({"recipe": {"train": {"epochs": 2}}}, "pretrained"),
        ({"recipe": {"train": {"epochs": 0}}}, "unknown"),
        ({"recipe": "quickstart"}, "unknown"),
    ],
)
def test_what_provenance_says_of_the_weights(provenance, origin):
    assert origin_in(provenance) == origin


def test_heads_of_pretrained_networks_stay_dense_unless_named(bert):
    view = describe(open_model(str(bert), pretrained=True))
    assert HEAD not in view.prunable
    assert HEAD in describe(view.module, include=("*", "head")).prunable
    assert describe(view.module, include=("head",)).prunable == (HEAD,)
    assert HEAD in describe(view.module, heads="prune").prunable
    assert HEAD not in view.select(exclude=("first",)).prunable
    assert not any(view[name].role == "embedding" for name in view.select(include=("*", "head")).prunable)
    fresh = describe(open_model("transformers:bert", args=BERT))
    assert HEAD in fresh.prunable
    assert HEAD not in describe(fresh.module, heads="dense").prunable
    with pytest.raises(UnknownName, match="unknown policy of heads 'keep'"):
        view.select(heads="keep")
    only = replace(view, prunable=())
    with pytest.raises(BadInput, match="heads of pretrained networks, are pruned only if they are named"):
        prune(only, sparsity=0.5, score="magnitude")


@pytest.mark.parametrize("origin", ["fresh", "pretrained", "unknown"])
@pytest.mark.parametrize("score", ["wanda", "magnitude", "snip"])
def test_scores_are_compared_where_they_mean_the_same(score, origin):
    view = describe(seeded(mlp()), weights_origin=origin, heads="prune")
    how = {"sparsity": 0.5, "score": score, "batches": labelled(view)}
    fitting = {"allocation": "pooled", "pattern": "unstructured"}
    if score == "wanda":
        fitting = {"allocation": "uniform", "pattern": "per_row"}
    elif (score, origin) == ("magnitude", "pretrained"):
        fitting = {"allocation": "uniform", "pattern": "unstructured"}
    assert prune(view, **how) == prune(view, **how, **fitting)
    other = {"allocation": "uniform" if fitting["allocation"] == "pooled" else "pooled"}
    assert prune(view, **how) != prune(view, **how, **other)


def test_a_pretrained_text_classifier_keeps_every_output(bert):
    """With scores of all layers in one ranking, wanda removed the classifier and most of the pooler."""
    view = describe(open_model(str(bert), pretrained=True))
    dense = view.forward({}, view.read(texts()[0]))
    apply_(view, prune(view, sparsity=0.5, score="wanda", batches=texts()))
    assert bool(view.params()[HEAD].all())
    for name in view.prunable:
        rows = (view.params()[name] != 0).sum(1)
        assert int(rows.min()) >= view[name].shape[1] // 2, name
    assert not torch.equal(view.forward({}, view.read(texts()[0])), dense)


def test_recipes_take_the_same_defaults_and_show_them():
    def prune_section(**sections) -> dict:
        recipe = parse_recipe({"model": {"ref": "m", **sections.pop("model", {})}, **sections})
        assert parse_recipe(recipe.resolved()).digest == recipe.digest
        return recipe.resolved()["prune"]

    def chosen(section: dict) -> tuple:
        return section["allocation"]["name"], section["pattern"]["name"], section.get("heads")

    trained = {"pretrained": True}
    assert chosen(prune_section()) == ("pooled", "unstructured", None)
    assert chosen(prune_section(prune={"score": "magnitude"})) == ("pooled", "unstructured", None)
    assert chosen(prune_section(prune={"score": "wanda"})) == ("uniform", "per_row", None)
    assert chosen(prune_section(model=trained)) == ("pooled", "unstructured", "dense")
    magnitude = {"score": {"name": "magnitude"}, "allocation": {"floor": 0.1}}
    section = prune_section(model=trained, prune=magnitude)
    assert chosen(section) == ("uniform", "unstructured", "dense")
    assert section["allocation"] == {"name": "uniform", "floor": 0.1}
    redrawn = prune_section(model=trained, init={"method": "orthogonal"}, prune={"score": "magnitude"})
    assert chosen(redrawn) == ("pooled", "unstructured", None), "these weights are fresh when they are pruned"
    asked = {"score": "wanda", "allocation": "erk", "pattern": "unstructured", "heads": "prune"}
    assert chosen(prune_section(model=trained, prune=asked)) == ("erk", "unstructured", "prune")
    assert chosen(prune_section(model=trained, prune={"mask": "folder"}))[2] is None, "the mask says it"


def test_shipped_recipes_are_as_they_were():
    for name in shipped():
        assert "heads" not in load_recipe(name).resolved()["prune"], name


def test_files_are_pruned_by_the_same_defaults(tmp_path, bert):
    view = describe(open_model(str(bert), pretrained=True))
    written = prune_files(bert, tmp_path / "x", sparsity=0.5)
    assert HEAD not in written.layers
    assert written.layers == prune(view, sparsity=0.5, score="magnitude").counts()
    other = prune_files(bert, tmp_path / "y", sparsity=0.5, include=("*", "head"))
    assert HEAD in other.layers


def test_biases_are_ranked_by_rows_too():
    """Each output has one bias: in rows of their own they would be kept and removed at random."""
    view = describe(seeded(mlp())).select(biases=True)
    mask = prune(view, sparsity=0.5, score="wanda", batches=labelled(view))
    sizes = view.params()["0.bias"].abs()
    keep = mask.keep["0.bias"]
    assert int(keep.sum()) == 8
    assert sizes[keep].min() > sizes[~keep].max()
