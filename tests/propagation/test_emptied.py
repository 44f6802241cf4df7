"""What pruning empties or cannot rank is named: weights, blocks, paths, experts without data."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from torch import nn

from sigprune.base.errors import BadInput, DataError
from sigprune.base.registry import MemberSpec
from sigprune.checkpoint.prune_shards import prune_files
from sigprune.checkpoint.save import save
from sigprune.experiment.setup import open_setting
from sigprune.format.index import read_manifest
from sigprune.hub.upload_plan import plan_push
from sigprune.models.opening import describe, open_model
from sigprune.propagation.emptied import EmptiedWeights, emptied, emptied_in
from sigprune.propagation.findings import Evidence, judge
from sigprune.propagation.reachability import connected
from sigprune.pruning.choose import DeadWeights, Method, UnroutedExperts, apply_, prune
from sigprune.recipe.recipe import parse_recipe
from sigprune.values.mask import Mask
from tests.pruning.test_weights_origin import BERT
from tests.support.networks import labelled, mlp, seeded

MIXTRAL = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 12, "vocab_size": 50, "num_local_experts": 4, "num_experts_per_tok": 1,
    "task": "causal-lm",
}  # fmt: skip


def told_by(call) -> dict[type, str]:
    """Category -> text of the warnings of a call; at most one of each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert len({w.category for w in caught}) == len(caught)
    return {w.category: str(w.message) for w in caught}


def emptying(*names: str, view=None) -> Mask:
    view = view or describe(mlp())
    mask = Mask.dense(view.prunable_shapes())
    for name in names:
        mask.keep[name].zero_()
    return mask


def test_one_warning_names_every_emptied_weight_and_what_keeps_them():
    view = describe(seeded(mlp((12, 16, 16, 16, 5))))
    with torch.no_grad():
        for name in ("2.weight", "4.weight"):
            view.module.get_parameter(name).mul_(1e-6)
    with pytest.warns(EmptiedWeights) as caught:
        mask = prune(view, sparsity=0.7, score="magnitude")
    (warning,) = caught
    text = str(warning.message)
    assert [name for name, (kept, _) in mask.counts().items() if not kept] == ["2.weight", "4.weight"]
    assert text.startswith(
        "the mask keeps nothing of 2 of 4 weights (2.weight, 4.weight) and leaves no path from"
    )
    assert re.search(
        r"floor .*another allocation \(erk, uniform\), exclude them, or lower the sparsity$", text
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for allocation in (MemberSpec("pooled", {"floor": 0.2}), "erk", "uniform"):
            prune(view, sparsity=0.7, score="magnitude", allocation=allocation)


def test_a_cut_without_an_empty_weight_is_found():
    """The first layer feeds unit 0 alone, and the next reads only the others."""
    view = describe(mlp((4, 6, 3)))
    first, last = torch.zeros(6, 4, dtype=torch.bool), torch.ones(3, 6, dtype=torch.bool)
    first[0], last[:, 0] = True, False
    mask = Mask({"0.weight": first, "2.weight": last})
    assert not connected(view, mask)
    found = emptied(view, mask)
    assert (found.weights, found.blocks, found.cut) == ((), {}, True)
    assert str(found).startswith("the mask leaves no path from the input to the output: keep")
    last[0, 0] = True
    assert not str(emptied(view, Mask({"0.weight": first, "2.weight": last})))


def test_an_emptied_branch_beside_a_residual_path_cuts_nothing():
    view = describe(open_model("timm:test_vit", args={"num_classes": 4}), include=("*.mlp.*",))
    found = emptied(view, emptying(*view.prunable, view=view))
    assert found.weights == view.prunable
    assert not found.cut


class Grouped(nn.Module):
    """A convolution of two groups, of which the input of the second is always zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 4, 1, bias=False)
        self.conv = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        alive = torch.tensor([1.0, 1.0, 0.0, 0.0])[:, None, None]
        return self.head((self.conv(self.stem(x) * alive)).mean((2, 3)))


@pytest.mark.parametrize("score", ["wanda", "snip"])
def test_a_dead_group_is_named(score):
    view = describe(seeded(Grouped()), example=torch.zeros(1, 4, 6, 6)).select(include=("conv.weight",))
    how = {"allocation": "pooled", "pattern": "unstructured", "batches": labelled(view)}
    told = told_by(lambda: prune(view, sparsity=0.5, score=score, **how))
    assert told.keys() == {DeadWeights, EmptiedWeights}
    dead = "of 1 blocks has the score zero (conv.weight: block 1 of 2): a part that the output does not"
    assert dead in told[DeadWeights]
    assert "keeps nothing of 1 blocks (conv.weight: block 1 of 2): keep some" in told[EmptiedWeights]


def test_queries_and_keys_of_one_token_are_named_fused_or_not():
    """Attention over one token is constant: q and k have no effect, whichever tensor holds them."""
    gpt = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 20, "n_positions": 8, "task": "causal-lm"}
    gpt |= {"bos_token_id": 0, "eos_token_id": 0}
    bert = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    bert |= {"vocab_size": 20, "max_position_embeddings": 8, "task": "masked-lm"}
    expected = {
        "gpt2": "2 blocks has the score zero (transformer.h.0.attn.c_attn.weight: blocks 0, 1 of 3)",
        "bert": "2 weights has the score zero (bert.encoder.layer.0.attention.self.query.weight, bert.",
    }
    for name, args in (("gpt2", gpt), ("bert", bert)):
        view = describe(seeded(open_model(f"transformers:{name}", args=args)))
        batch = {"input_ids": torch.tensor([[3], [5]])}
        how = {"score": "snip", "objective": "uniform", "batches": [batch]}
        told = told_by(lambda view=view, how=how: prune(view, sparsity=0.5, **how))
        assert expected[name] in told[DeadWeights], name
        assert "queries and keys of a single token" in told[DeadWeights]
        assert EmptiedWeights in told


def mixtral():
    view = describe(seeded(open_model("transformers:mixtral", args=MIXTRAL)))
    view = view.select(include=("expert",))
    return view, {"input_ids": torch.tensor([[7, 7, 7, 7]])}


@pytest.mark.parametrize(
    ("score", "how"),
    [
        ("wanda", {}),
        ("wanda", {"pattern": "n_m"}),
        ("wanda", {"allocation": "pooled", "pattern": "unstructured"}),
        ("snip", {"objective": "uniform"}),
        ("snip", {"objective": "uniform", "allocation": "uniform", "pattern": "n_m"}),
    ],
)
def test_experts_without_data_keep_what_their_magnitudes_say(score, how):
    view, batch = mixtral()
    with pytest.warns(
        UnroutedExperts, match="no example reached these experts, so that .weight. alone ranks"
    ):
        mask = prune(view, sparsity=0.5, score=score, batches=[batch], **how)
    by_size = prune(view, sparsity=0.5, score="magnitude", **{"allocation": "uniform", **how})
    for name, keep in mask.keep.items():
        shares = keep.double().mean((1, 2))
        assert float(shares.min()) > 0.1, (name, shares)
        if how.get("allocation") != "pooled" and "pattern" in how:
            same = (keep == by_size.keep[name]).flatten(1).all(1)
            assert int(same.sum()) >= 2, "of four experts at most two were reached"


def test_experts_are_as_they_were_where_all_are_reached():
    view, _ = mixtral()
    batch = {"input_ids": torch.arange(48).reshape(2, 24)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prune(view, sparsity=0.5, score="wanda", batches=[batch])


def test_a_sparsity_that_keeps_nothing_is_refused():
    view = describe(nn.Sequential(nn.Linear(9, 6), nn.Linear(6, 6)))
    with pytest.raises(
        BadInput, match=r"sparsity 0.999999 keeps none of 90 prunable entries: expected at most "
    ):
        prune(view, sparsity=0.999999, score="magnitude")
    with pytest.warns(EmptiedWeights):
        assert prune(view, sparsity=1 - 1 / 90, score="magnitude").kept == 1


def test_one_output_is_not_blamed_on_gates():
    view = describe(seeded(mlp((12, 8, 1))))
    batch = (torch.randn(4, 12), torch.zeros(4, dtype=torch.long))
    with pytest.warns(
        DeadWeights, match="every entry of 2 weights .*: the output is a single number: of one class"
    ):
        prune(view, sparsity=0.5, batches=[batch])


def test_findings_name_blocks_and_the_cut():
    view = describe(seeded(Grouped()), example=torch.zeros(1, 4, 6, 6))
    mask = emptying(view=view)
    mask.keep["conv.weight"][3:] = False
    findings = {f.name: f for f in judge(Evidence(view, labelled(view)[0], mask=mask))}
    assert (findings["collapsed_blocks"].value, findings["collapsed_blocks"].ok) == (1, False)
    assert findings["collapsed_blocks"].where == "conv.weight: block 1 of 2"
    assert "open_path" not in findings
    assert findings["collapsed_weights"].ok
    mask.keep["stem.weight"].zero_()
    findings = {f.name: f for f in judge(Evidence(view, labelled(view)[0], mask=mask))}
    assert not findings["open_path"].ok
    assert not findings["collapsed_weights"].ok


def test_a_checkpoint_says_what_is_emptied(tmp_path):
    view = describe(mlp())
    mask = emptying("2.weight", view=view)
    apply_(view, mask)
    with pytest.warns(EmptiedWeights, match=r"nothing of 1 of 3 weights \(2.weight\) and leaves no path"):
        save(tmp_path / "x", view, mask)
    said = emptied_in(read_manifest(tmp_path / "x"))
    assert said[0].startswith("warning: collapsed_weights is 1 (2.weight), expected 0; keep some of each")
    assert said[1].startswith("warning: open_path is 0 (from the input to the output), expected 1")
    whole = emptying(view=view)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(tmp_path / "y", view, whole)
    manifest = read_manifest(tmp_path / "y")
    assert "findings" not in manifest.provenance
    assert emptied_in(manifest) == ()


def test_a_push_warns_of_what_the_checkpoint_says(tmp_path):
    view = describe(open_model("timm:test_resnet", args={"num_classes": 4}))
    name = view.prunable[3]
    mask = emptying(name, view=view)
    apply_(view, mask)
    with pytest.warns(EmptiedWeights, match=name):
        save(tmp_path / "x", view, mask)
    plan = plan_push(tmp_path / "x", "someone/net")
    assert plan.warnings[0].startswith(f"warning: collapsed_weights is 1 ({name}), expected 0")
    assert f"collapsed_weights is 1 ({name})" in plan.made["README.md"]


def test_files_pruned_one_by_one_name_what_they_empty(tmp_path):
    model = seeded(open_model("transformers:bert", args=BERT))
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    with torch.no_grad():
        model.get_parameter(name).mul_(1e-9)
    model.save_pretrained(tmp_path / "x")
    method = Method("magnitude", "pooled")
    with pytest.warns(EmptiedWeights, match=rf"keeps nothing of 1 of \d+ weights \({name}\): keep some"):
        written = prune_files(tmp_path / "x", tmp_path / "y", sparsity=0.5, method=method)
    assert written.warnings[0].startswith(f"warning: collapsed_weights is 1 ({name}), expected 0; keep some")
    assert emptied_in(read_manifest(tmp_path / "y")) == written.warnings


def test_data_of_one_class_are_refused_for_what_they_are():
    data = {"source": {"name": "noise", "classes": 1, "examples": 16, "size": 32}}
    recipe = parse_recipe({"model": {"ref": "timm:test_resnet"}, "data": data})
    with pytest.raises(DataError, match=r"the data have one class \(0\): whatever the network says is right"):
        open_setting(recipe)


def test_a_network_that_does_not_take_its_example_is_pruned_without_data():
    """Whether a path is left cannot be known then; what needs no pass is still said."""
    view = describe(seeded(mlp((12, 16, 5))), example=torch.zeros(1, 7))
    with pytest.warns(EmptiedWeights):
        mask = prune(view, sparsity=0.99, score="magnitude", allocation="pooled")
    assert mask.kept == round(mask.total * 0.01)
    assert not emptied(view, mask).cut
