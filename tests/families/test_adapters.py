"""Adapters: an exact partition, blocks that cover each entry once, configs that rebuild the same model."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import timm
import torch
import transformers
from torch import nn
from torch.nn.utils import parametrizations

from sigprune.base.errors import BadInput, CheckpointError, UnknownName, UnsupportedModel
from sigprune.base.rng import global_stream
from sigprune.base.tensors import digest
from sigprune.families.adapters import adapters
from sigprune.families.adapters._module_tree.skip_reasons import _NORM_CLASS, _ZERO_CENTRED
from sigprune.families.adapters._module_tree.walk import survey
from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe
from sigprune.values.layout import Layout
from sigprune.values.view import View
from tests.support.shrinking import shrunk
from tests.support.test_shrinking import VERSION

NAMES = """resnet50 resnet18 vit_tiny_patch16_224 deit3_small_patch16_224 swin_tiny_patch4_window7_224
swinv2_cr_tiny_224 convnext_atto convnextv2_atto efficientnet_b0 mobilenetv3_small_100 nfnet_l0 dm_nfnet_f0
mixer_s32_224 resmlp_12_224 maxvit_rmlp_pico_rw_256 beit_base_patch16_224 eva02_tiny_patch14_336 levit_128s
sequencer2d_s tf_efficientnet_cc_b0_4e resnetv2_50x1_bit cait_xxs24_224 xcit_nano_12_p16_224 coat_tiny
visformer_tiny regnetx_002 densenet121 ghostnet_100 hrnet_w18_small mobilevit_xs poolformer_s12
crossvit_tiny_240 tiny_vit_5m_224 efficientformer_l1 inception_v3 botnet26t_256"""

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = {**TINY, "vocab_size": 99, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
IMAGE = {**TINY, "image_size": 32, "patch_size": 8}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 99}
GQA = {**TEXT, "num_key_value_heads": 2, "task": "causal-lm"}
TOWERS = {"text_config": TEXT, "vision_config": IMAGE, "task": "base"}
WAVE = {
    **TINY, "conv_dim": [16, 16], "conv_stride": [5, 4], "conv_kernel": [10, 3], "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "task": "base",
}  # fmt: skip
TRANSFORMERS = {
    "bert": ("bert", TEXT),
    "gpt2": ("gpt2", GPT2),
    "gpt2 lm": ("gpt2", {**GPT2, "task": "causal-lm"}),
    "vit": ("vit", {**IMAGE, "num_labels": 7}),
    "t5": ("t5", {**T5, "task": "base"}),
    "t5 classifier": ("t5", T5),
    "llama": ("llama", GQA),
    "gemma": ("gemma", {**GQA, "head_dim": 8}),
    "mixtral": ("mixtral", {**GQA, "num_local_experts": 4}),
    "gpt_oss": ("gpt_oss", {**GQA, "num_local_experts": 4, "head_dim": 8}),
    "mamba": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 99, "state_size": 4}),
    "wav2vec2": ("wav2vec2", WAVE),
    "clip": ("clip", TOWERS),
    "siglip": ("siglip", {"text_config": TEXT, "vision_config": IMAGE}),
    "deberta-v2": ("deberta-v2", TEXT),
    "convnext": ("convnext", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 32}),
    "dinov2": ("dinov2", {k: v for k, v in IMAGE.items() if k != "intermediate_size"}),
    "distilbert": ("distilbert", {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 8, "vocab_size": 9}),
    "bart": ("bart", {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 99}),
}  # fmt: skip


def on_meta(name: str, **args) -> nn.Module:
    return timm.create_model(name, device="meta", **args)


def transformer(key: str) -> nn.Module:
    kind, args = TRANSFORMERS[key]
    with global_stream(0, "test", key):
        return adapters.get("transformers").build(kind, args).eval()


def check_partition(view: View) -> None:
    """Weights and skipped are disjoint and complete, with all tied names; blocks cover each entry once."""
    every = {name for name, _ in view.module.named_parameters(remove_duplicate=False)}
    canonical = {name for name, _ in view.module.named_parameters()}
    weights = [name for w in view.weights for name in (w.name, *w.tied)]
    assert len(set(weights)) == len(weights)
    assert set(weights).isdisjoint(view.skipped)
    assert {*weights, *view.skipped} == every
    assert {*(w.name for w in view.weights), *view.reasons()} == canonical
    for weight in view.weights:
        parameter = view.module.get_parameter(weight.name)
        assert weight.shape == tuple(parameter.shape)
        assert all(view.module.get_parameter(other) is parameter for other in weight.tied)
        assert weight.bias is None or view.skipped[weight.bias] == "bias"
    for layout, shape in {(w.layout, w.shape) for w in view.weights}:
        cover = torch.zeros(shape, dtype=torch.int8)
        for block in layout.blocks(cover):
            block.add_(1)
        assert bool((cover == 1).all()), f"{layout} does not cover {shape} once"
    assert {g.name for g in view.gates} == {n for n, reason in view.reasons().items() if reason == "gate"}
    assert set(view.prunable) == {w.name for w in view.weights if w.role != "embedding"}


@pytest.mark.parametrize("name", NAMES.split())
def test_timm_partition(name):
    model = on_meta(name)
    view = describe(model)
    check_partition(view)
    assert view.library == "timm"
    assert view.architecture == name
    heads = [w.name for w in view.weights if w.role == "head"]
    assert bool(heads) == (model.num_classes > 0)
    tables = {"pos_embed", "relative_position_bias_table", "attention_biases", "cls_token", "dist_token"}
    assert not any(w.name.rpartition(".")[2] in tables for w in view.weights)


@pytest.mark.parametrize("key", TRANSFORMERS)
def test_transformers_partition_forward_and_rebuild(key, tmp_path):
    adapter = adapters.get("transformers")
    model = transformer(key)
    view = describe(model)
    check_partition(view)
    with torch.no_grad():
        expected = view.read_output(model(**view.example.inputs))
        # experts run one by one under a view, where the model multiplies those of all tokens in groups
        bound = 1e-6 if any(weight.role == "expert" for weight in view.weights) else 0.0
        torch.testing.assert_close(
            view.forward(view.params(), view.example), expected, rtol=bound, atol=bound
        )
        if view.embed is not None:
            assert torch.allclose(view.forward({}, view.embed(view.example)), expected, atol=1e-5)
    before = model.config.to_dict()
    adapter.write_config(model, tmp_path)
    assert model.config.to_dict() == before
    rebuilt = adapter.rebuild(tmp_path)
    assert type(rebuilt) is type(model)
    assert {n: p.shape for n, p in rebuilt.named_parameters()} == {
        n: p.shape for n, p in model.named_parameters()
    }


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_nfnet", "test_convnext2", "test_mambaout"])
def test_timm_forward_equals_the_model(name):
    model = timm.create_model(name).eval()
    view = describe(model).using("eval")
    with torch.no_grad():
        assert torch.equal(
            view.forward(view.params(), view.example), model(view.example.inputs[view.input_name])
        )


def test_describing_leaves_the_model_and_the_random_state():
    model = timm.create_model("test_resnet").train()
    model.fc.eval()
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    before = (digest(model.state_dict()), list(model.state_dict()), [m.training for m in model.modules()])
    grads = [p.grad is None for p in model.parameters()]
    state = torch.get_rng_state()
    describe(model)
    assert (
        digest(model.state_dict()),
        list(model.state_dict()),
        [m.training for m in model.modules()],
    ) == before
    assert [p.grad is None for p in model.parameters()] == grads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", adapters.names())
def test_members_keep_the_contract(name):
    member = adapters.get(name)
    for function in ("accepts", "names", "build", "build_pretrained", "describe", "write_config", "rebuild"):
        assert callable(getattr(member, function))
    assert set(member.names()) >= {"timm": {"resnet50"}, "transformers": {"bert"}}.get(name, set())
    assert member.accepts(nn.Linear(2, 2)) == (name == "torch")


# ---- layouts and roles


def test_gpt2_layers_are_transposed_and_fused():
    model = transformer("gpt2 lm")
    view = describe(model)
    weight = view["transformer.h.0.attn.c_attn.weight"]
    assert weight.shape == (32, 96)
    assert weight.layout == Layout(transposed=True, fused=(32, 32, 32))
    assert weight.role == "attention"
    stored = model.transformer.h[0].attn.c_attn.weight
    query = next(weight.layout.blocks(stored.detach()))
    x = torch.linspace(-1, 1, 32)
    model.transformer.h[0].attn.c_attn.bias.data.zero_()
    assert torch.allclose(query @ x, model.transformer.h[0].attn.c_attn(x)[:32], atol=1e-6)
    embedding = view["lm_head.weight"]
    assert (embedding.name, embedding.role) == ("transformer.wte.weight", "embedding")
    assert embedding.name not in view.prunable


def test_experts_are_stacked():
    view = describe(transformer("mixtral"))
    weight = view["model.layers.0.mlp.experts.gate_up_proj"]
    assert weight.layout == Layout(stacked=True, fused=(64, 64))
    assert weight.role == "expert"
    assert view.skipped["model.layers.0.mlp.gate.weight"] == "router"
    weight = describe(transformer("gpt_oss"))["model.layers.0.mlp.experts.gate_up_proj"]
    assert weight.layout == Layout(transposed=True, stacked=True, fused=(64, 64), interleaved=True)
    assert weight.bias == "model.layers.0.mlp.experts.gate_up_proj_bias"


class Zoo(nn.Module):
    """One of each layer whose weights are stored in a way of their own."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(4, 6, 3, groups=2)
        self.up = nn.ConvTranspose2d(6, 8, 3, groups=2)
        self.cube = nn.Conv3d(2, 2, 3, groups=2)
        self.attn = nn.MultiheadAttention(8, 2)
        self.cross = nn.MultiheadAttention(8, 2, kdim=6, vdim=4)
        self.lstm = nn.LSTM(8, 5, proj_size=3)
        self.gru = nn.GRU(8, 5, bidirectional=True)
        self.normed = parametrizations.weight_norm(nn.Conv1d(4, 6, 3))
        self.turned = parametrizations.orthogonal(nn.Linear(4, 4))
        self.rezero = nn.Parameter(torch.zeros(()))
        self.middle = nn.Parameter(torch.full((3,), 0.5))
        self.raw = nn.Parameter(torch.ones(3, 4))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.zeros(1, 9, 8))
        self.q_bias = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        return self.stem(x)


def test_layouts_of_every_layer_of_torch():
    view = describe(Zoo())
    check_partition(view)
    layouts = {w.name: w.layout for w in view.weights}
    assert layouts["stem.weight"] == Layout(groups=2)
    assert layouts["up.weight"] == Layout(groups=2, transposed=True)
    assert [tuple(b.shape) for b in layouts["up.weight"].blocks(view.module.up.weight)] == [(4, 3, 3, 3)] * 2
    assert layouts["cube.weight"] == Layout(groups=2)
    assert layouts["attn.in_proj_weight"] == Layout(fused=(8, 8, 8))
    assert view["attn.in_proj_weight"].bias == "attn.in_proj_bias"
    assert layouts["cross.k_proj_weight"] == Layout()
    assert layouts["lstm.weight_ih_l0"] == Layout(fused=(5,) * 4)
    assert layouts["lstm.weight_hr_l0"] == Layout()
    assert layouts["gru.weight_hh_l0_reverse"] == Layout(fused=(5,) * 3)
    assert view["gru.weight_hh_l0_reverse"].bias == "gru.bias_hh_l0_reverse"
    assert layouts["normed.parametrizations.weight.original1"] == Layout()
    roles = {w.name: w.role for w in view.weights}
    assert roles["attn.out_proj.weight"] == roles["cross.q_proj_weight"] == "attention"
    assert roles["gru.weight_ih_l0"] == "recurrent"
    expected = {
        "rezero": "gate", "middle": "vector", "raw": "other", "cls_token": "token",
        "pos_embed": "position table", "q_bias": "bias", "normed.parametrizations.weight.original0": "vector",
        "turned.parametrizations.weight.original": "parametrised",
    }  # fmt: skip
    assert {name: view.skipped[name] for name in expected} == expected


def test_fused_projections_and_stages_of_a_vision_transformer():
    view = describe(on_meta("vit_tiny_patch16_224"))
    weight = view["blocks.3.attn.qkv.weight"]
    assert weight.layout.fused == (192, 192, 192)
    assert (weight.role, weight.stage, weight.bias) == ("attention", "blocks.3", "blocks.3.attn.qkv.bias")
    assert view["patch_embed.proj.weight"].stage == "patch_embed"
    assert view["head.weight"].role == "head"
    # tiny_vit stores its rows head by head: they are one matrix to us
    fused = {w.layout.fused for w in describe(on_meta("tiny_vit_5m_224")).weights}
    assert fused == {()}


def test_standardised_weights_are_marked():
    for name in ("nfnet_l0", "resnetv2_50x1_bit"):
        flags = {w.role: w.standardised is not None for w in describe(on_meta(name)).weights}
        assert flags["conv"]
    assert not any(w.standardised for w in describe(on_meta("resnet18")).weights)


# ---- gates


@pytest.mark.parametrize(
    ("name", "count", "value"),
    [
        ("resnet18", 8, 0.0),
        ("resnet50", 16, 0.0),
        ("deit3_small_patch16_224", 24, 1e-6),
        ("convnext_atto", 12, 1e-6),
        ("test_nfnet", 4, 0.0),
        ("poolformer_s12", 24, 1e-5),
    ],
)
def test_gates_that_start_closed(name, count, value):
    gates = describe(timm.create_model(name)).gates
    assert len(gates) == count
    assert all(g.closed and g.value == pytest.approx(value) for g in gates)


def test_gates_on_meta_are_found_by_structure_only():
    gates = describe(on_meta("deit3_small_patch16_224")).gates
    assert len(gates) == 24
    assert all(math.isnan(g.value) and g.closed for g in gates)
    assert not describe(on_meta("resnet18")).gates


def test_offsets_of_activations_are_no_biases():
    view = describe(timm.create_model("poolformerv2_s12"))
    assert view.skipped["stages.0.blocks.0.mlp.act.bias"] == "vector"
    assert describe(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))).skipped["1.bias"] == "bias"


def test_trained_gates_stay_gates_and_trained_norms_do_not():
    model = timm.create_model("test_convnext")
    names = {g.name for g in describe(model).gates}
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).fill_(0.7)
    assert {g.name: g.closed for g in describe(model).gates} == dict.fromkeys(names, False)
    model = timm.create_model("test_resnet")
    norms = [g.name for g in describe(model).gates]
    with torch.no_grad():
        for name in norms:
            model.get_parameter(name).fill_(0.7)
    view = describe(model)
    assert not view.gates
    assert all(view.skipped[name] == "norm scale" for name in norms)


def test_zero_centred_norms_are_no_gates():
    view = describe(transformer("gemma"))
    assert not view.gates
    assert view.skipped["model.norm.weight"] == "norm shift"
    assert not [g for g in describe(timm.create_model("convnextv2_atto")).gates if "grn" in g.name]


def test_norms_that_multiply_by_one_plus_their_weight_are_known():
    """Read in the sources: such a norm doubles at weight 1, any other is silent at weight 0."""
    adds = re.compile(r"\b1(\.0)? \+ self\.weight|self\.weight(\.float\(\))? \+ 1")
    wrong = set()
    for path in Path(transformers.__path__[0], "models").glob("*/modeling_*.py"):
        for text in re.split(r"^(?=class )", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            name = re.match(r"class (\w+)", text)[1]
            if _NORM_CLASS.search(name) and bool(adds.search(text)) != bool(_ZERO_CENTRED.fullmatch(name)):
                wrong.add(name)
    assert wrong <= {"ConvNextV2GRN"}, "which adds its weight times a response"


@pytest.mark.skipif(VERSION < (5, 23), reason="the small models are of transformers 5.23")
@pytest.mark.parametrize(
    ("model_type", "gates"),
    [
        ("pe_video", {"text_video_logit_scale"}),
        ("zaya", {f"layers.{i}.self_attn.qk_norm.temp" for i in (0, 1)}),
    ],
)
def test_scales_of_scores_that_start_at_zero_are_gates(model_type, gates):
    view = describe(shrunk(model_type))
    assert gates <= {gate.name for gate in view.gates}
    reinit_(view)
    assert all(bool((view.params()[name] == 1).all()) for name in gates)


# ---- building, writing, rebuilding


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("test_vit", {"img_size": 64, "in_chans": 1, "num_classes": 7}),
        ("test_resnet", {"in_chans": 1, "num_classes": 7}),
        (
            "vit_tiny_patch16_224",
            {"img_size": 32, "patch_size": 8, "in_chans": 1, "num_classes": 10, "depth": 2},
        ),
    ],
)
def test_timm_config_makes_the_same_model_in_plain_timm(name, args, tmp_path):
    from safetensors.torch import save_file

    adapter = adapters.get("timm")
    model = adapter.build(name, args).eval()
    view = describe(model)
    assert view.example.inputs["x"].shape[1] == 1
    if "img_size" in args:
        assert view.example.inputs["x"].shape[-1] == args["img_size"]
    adapter.write_config(model, tmp_path)
    rebuilt = adapter.rebuild(tmp_path)
    assert {n: p.shape for n, p in rebuilt.named_parameters()} == {
        n: p.shape for n, p in model.named_parameters()
    }
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    x = view.example.inputs["x"]
    plain = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    ours = adapter.build_pretrained(f"local-dir:{tmp_path}", None, {}).eval()
    with torch.no_grad():
        for loaded in (plain, ours):
            assert digest(loaded.state_dict()) == digest(model.state_dict())
            torch.testing.assert_close(loaded(x), model(x))  # memory-mapped weights: other last bits


def test_transformers_config_loads_in_plain_transformers(tmp_path):
    from safetensors.torch import save_file
    from transformers import AutoModelForImageClassification

    model = transformer("vit")
    adapter = adapters.get("transformers")
    adapter.write_config(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["ViTForImageClassification"]
    assert config["dtype"] == "float32"
    save_file(model.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    x = describe(model).example.inputs["pixel_values"]
    plain = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    ours = adapter.build_pretrained(f"local-dir:{tmp_path}", None, {}).eval()
    other = adapter.build_pretrained(f"local-dir:{tmp_path}", None, {"num_labels": 3})
    with torch.no_grad():
        for loaded in (plain, ours):
            assert digest(loaded.state_dict()) == digest(model.state_dict())
            torch.testing.assert_close(loaded(x).logits, model(x).logits)
    assert other.classifier.weight.shape == (3, 32)
    assert torch.equal(other.vit.layernorm.weight, model.vit.layernorm.weight)


def test_rebuilding_leaves_the_random_state(tmp_path):
    adapter = adapters.get("timm")
    adapter.write_config(adapter.build("test_vit", {}), tmp_path)
    state = torch.get_rng_state()
    adapter.rebuild(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_folder_names_no_code_to_run(tmp_path):
    """A torch model's folder says what it is, never how to make it: that is for the caller to say."""
    adapter = adapters.get("torch")
    model = adapter.build("torch.nn.Linear", {"in_features": 3, "out_features": 2})
    adapter.write_config(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["class"] == "torch.nn.modules.linear.Linear"
    with pytest.raises(CheckpointError, match=r"pass it: load\(folder, into=model\)"):
        adapter.rebuild(tmp_path)


@pytest.mark.parametrize(
    ("library", "name", "args", "message"),
    [
        ("timm", "resnet500", {}, "did you mean resnet50"),
        ("timm", "resnet18", {"num_clases": 3}, "num_clases"),
        ("transformers", "bertt", {}, "did you mean bert"),
        ("transformers", "bert", {"hiden_size": 3}, "did you mean hidden_size"),
        ("transformers", "bert", {"hidden_size": "x"}, "expected int"),
        ("transformers", "bert", {"task": "causal"}, "did you mean causal-lm"),
        ("transformers", "convnext", {"task": "causal-lm"}, "no model for causal-lm.*image-classification"),
        ("torch", "resnet", {}, "dotted path"),
        ("torch", "no_such_package.model", {}, "no module no_such_package"),
        ("torch", "torch.nn.Lineer", {}, "did you mean Linear"),
        ("torch", "torch.pi", {}, "got float; nothing was called"),
        ("torch", "torch.nn.Linear", {"in_features": 3}, "out_features"),
        ("torch", "torch.nn.Transformer", {"d_model": 3}, "failed"),
        ("torch", "torch.get_default_dtype", {}, "got builtin_function_or_method"),
    ],
)
def test_bad_input_is_one_clear_line(library, name, args, message):
    with pytest.raises(BadInput, match=message) as caught:
        adapters.get(library).build(name, args)
    assert "\n" not in str(caught.value)


def test_unknown_names_have_neighbours():
    with pytest.raises(UnknownName) as caught:
        adapters.get("timm").build("vit_tiny_patch16_244", {})
    assert "vit_tiny_patch16_224" in caught.value.nearest


def test_models_that_cannot_be_described():
    with pytest.raises(UnsupportedModel, match="no parameters"):
        describe(nn.ReLU())
    with pytest.raises(UnsupportedModel, match="no shape yet"):
        describe(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(UnsupportedModel, match="pass describe"):
        describe(nn.LayerNorm(3))


def test_pretrained_weights_that_do_not_fit_are_refused(tmp_path):
    """Only a new head may start afresh; a random layer would pass for a pretrained one."""
    from safetensors.torch import save_file

    adapter, model = adapters.get("transformers"), transformer("vit")
    adapter.write_config(model, tmp_path)
    state = model.state_dict()
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    source = f"local-dir:{tmp_path}"
    assert adapter.build_pretrained(source, None, {"num_labels": 3}).classifier.out_features == 3
    with pytest.raises(BadInput, match=r"\d+ tensors .* have another shape, first vit\."):
        adapter.build_pretrained(source, None, {"num_labels": 3, "hidden_size": 16})
    rest = {name: tensor for name, tensor in state.items() if ".layer.1." not in name and ".1." not in name}
    assert len(rest) < len(state)
    save_file(rest, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match="tensors are missing there"):
        adapter.build_pretrained(source, None, {})


# What transformers does with the rows of a product's output, read and traced in 5.23.
FUSED = {
    ("phi3", "layers.0.self_attn.qkv_proj"): Layout(fused=(64, 64, 64)),
    ("dbrx", "blocks.0.norm_attn_norm.attn.Wqkv"): Layout(fused=(64, 16, 16)),
    ("dbrx", "blocks.0.ffn.experts.mlp.w1"): Layout(groups=4),
    ("dbrx", "blocks.0.ffn.experts.mlp.w2"): Layout(groups=4, transposed=True),
    ("falcon", "h.0.self_attention.query_key_value"): Layout(fused=(64, 16, 16)),
    ("bloom", "h.0.self_attention.query_key_value"): Layout(groups=4, fused=(16, 16, 16)),
    ("codegen", "h.0.attn.qkv_proj"): Layout(groups=4, fused=(16, 16, 16)),
    ("exaone4_5_vision", "blocks.0.attn.qkv"): Layout(fused=(64, 32, 32)),
    ("deepseek_v3", "layers.0.self_attn.kv_b_proj"): Layout(groups=4, fused=(16, 16)),
    ("mamba", "layers.0.mixer.in_proj"): Layout(fused=(128, 128)),
    ("mamba2", "layers.0.mixer.in_proj"): Layout(fused=(128, 128, 64, 64, 8)),
    ("zamba", "layers.0.mamba.in_proj"): Layout(fused=(128, 128), interleaved=True),
    ("modernbert", "layers.0.mlp.Wi"): Layout(fused=(96, 96)),
    ("xlnet", "layer.0.rel_attn.q"): Layout(shape=(64, 64), transposed=True),
    ("xlnet", "layer.0.rel_attn.o"): Layout(shape=(64, 64)),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # deprecations inside transformers
@pytest.mark.skipif(VERSION < (5, 23), reason="the small models are of the types of transformers 5.23")
@pytest.mark.parametrize(("model_type", "path"), FUSED, ids="-".join)
def test_fused_projections_of_transformers(model_type, path):
    weights = {w.name.removesuffix(".weight"): w.layout for w in survey(shrunk(model_type)).weights}
    assert weights[path] == FUSED[model_type, path]


def test_conditional_convolutions_and_global_windows_of_timm():
    """CondConv2d keeps one kernel per expert in a row; GCViT's global windows have keys and values only."""
    view = describe(timm.create_model("efficientnet_cc_b0_4e", device="meta"))
    (weight,) = [w for w in view.weights if w.name == "blocks.4.0.conv_dw.weight"]
    assert weight.shape == (4, 12000)
    blocks = list(weight.layout.blocks(torch.empty(weight.shape, device="meta")))
    assert (len(blocks), {tuple(b.shape) for b in blocks}) == (4 * 480, {(1, 1, 5, 5)})
    view = describe(timm.create_model("gcvit_xxtiny", device="meta"))
    assert view["stages.0.blocks.1.attn.qkv.weight"].layout == Layout(fused=(64, 64))
