"""Wanda against naive float64 references: layer kinds, whole models, and what cannot be observed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sigprune import describe, open_model, prune
from sigprune.base.errors import UnsupportedModel
from sigprune.base.rng import generator
from sigprune.families.scores import scores
from sigprune.values.mask import Mask
from sigprune.values.problem import Problem
from sigprune.values.view import View
from tests.reference import wanda as reference
from tests.support.networks import checkpointing, seeded

SIZES = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12,
    "vocab_size": 50, "max_position_embeddings": 16,
}  # fmt: skip


def draws(*size: int, name: str = "x") -> Tensor:
    return torch.randn(*size, generator=generator(0, "test", name))


def wanda(view: View, *batches: object, mask: Mask | None = None) -> dict[str, Tensor]:
    mask = mask or Mask.dense(view.prunable_shapes())
    return scores.get("wanda").score(Problem(view, mask, generator(0, "test", "wanda"), None, list(batches)))


def expect(ranked: dict[str, Tensor], view: View, sums: dict[str, Tensor]) -> None:
    """Scores must be |w| · sqrt(sums) for exactly these names."""
    assert ranked.keys() == sums.keys()
    for name, value in sums.items():
        expected = view.params()[name].double().abs() * value.expand(ranked[name].shape).sqrt()
        torch.testing.assert_close(ranked[name].double(), expected, rtol=1e-5, atol=1e-6, msg=name)


def hooked(view: View, *batches: object) -> dict[str, Tensor]:
    """Sums for every plain linear layer, from what hooks on the modules see."""
    found: dict[str, Tensor] = {}
    handles = []
    for name, module in view.module.named_modules():
        if isinstance(module, nn.Linear):

            def look(part: nn.Module, inputs: tuple[Tensor, ...], _out: object, name: str = name) -> None:
                sums = reference.linear(inputs[0], part.out_features)
                key = f"{name}.weight"
                found[key] = found[key] + sums if key in found else sums

            handles.append(module.register_forward_hook(look))
    with torch.no_grad():
        for batch in batches:
            view.forward({}, view.read(batch))
    for handle in handles:
        handle.remove()
    return found


def test_an_example_by_hand():
    """The columns of X = [[3, 1], [4, 0]] have the norms 5 and 1."""
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.tensor([[1.0, -4.0], [-2.0, 3.0]])
    layer.bias.data = torch.tensor([1.0, -2.0])
    ranked = wanda(describe(layer).select(biases=True), torch.tensor([[3.0, 1.0], [4.0, 0.0]]))
    torch.testing.assert_close(ranked["weight"], torch.tensor([[5.0, 4.0], [10.0, 3.0]]))
    torch.testing.assert_close(ranked["bias"], torch.tensor([1.0, -2.0]).abs() * 2**0.5)


def test_norms_run_over_tokens_and_batches():
    view = describe(seeded(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))))
    batches = [draws(4, 6, 5, name=str(i)) for i in range(3)]
    expect(wanda(view, *batches), view, hooked(view, *batches))


CONVOLUTIONS = {
    "plain": (nn.Conv2d, {"in_channels": 3, "out_channels": 4, "kernel_size": 3}),
    "all": (
        nn.Conv2d,
        {
            "in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2,
            "groups": 2,
        },
    ),
    "depthwise": (
        nn.Conv2d, {"in_channels": 3, "out_channels": 6, "kernel_size": 2, "groups": 3, "padding": 1},
    ),
    "one axis": (
        nn.Conv1d, {"in_channels": 2, "out_channels": 3, "kernel_size": 4, "stride": 3, "padding": 1},
    ),
    "three axes": (nn.Conv3d, {"in_channels": 2, "out_channels": 2, "kernel_size": 2, "stride": 2}),
}  # fmt: skip


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(case):
    kind, options = CONVOLUTIONS[case]
    layer = seeded(kind(**options))
    axes = layer.weight.dim() - 2
    x = draws(2, options["in_channels"], *(7, 6, 5)[:axes])
    view = describe(layer, example=x[:1]).select(biases=True)
    sums = reference.convolution(
        x,
        tuple(layer.weight.shape),
        stride=layer.stride[0],
        padding=layer.padding[0],
        dilation=layer.dilation[0],
        groups=layer.groups,
    )
    ones = torch.tensor(layer(x)[:, 0].numel(), dtype=torch.float64)
    expect(wanda(view, x), view, {"weight": sums, "bias": ones})


def test_padding_of_other_kinds():
    x = draws(2, 3, 6, 6)
    circular = seeded(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"))
    view = describe(circular, example=x[:1])
    padded = functional.pad(x, (1, 1, 1, 1), mode="circular")
    expect(wanda(view, x), view, {"weight": reference.convolution(padded, (4, 3, 3, 3))})
    same = seeded(nn.Conv2d(3, 4, 3, padding="same"))
    view = describe(same, example=x[:1])
    expect(wanda(view, x), view, {"weight": reference.convolution(x, (4, 3, 3, 3), padding=1)})


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions(groups):
    layer = seeded(
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=2, dilation=2, output_padding=1, groups=groups)
    )
    x = draws(2, 4, 4, 3)
    size = tuple(layer(x).shape[2:])
    view = describe(layer, example=x[:1])
    shape = tuple(layer.weight.shape)
    sums = reference.transposed(x, shape, size, stride=2, padding=2, dilation=2)
    expect(wanda(view, x), view, {"weight": sums})


class Attention(nn.Module):
    """Attention over a memory that the network holds itself."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)
        self.register_buffer("memory", draws(1, 5, options.get("kdim", 8), name="memory"))

    def forward(self, x: Tensor) -> Tensor:
        memory = self.memory.expand(len(x), -1, -1)
        return self.attention(x, memory, memory, need_weights=False)[0]


@pytest.mark.parametrize("options", [{}, {"kdim": 6, "vdim": 6}], ids=["fused", "separate"])
def test_multi_head_attention(options):
    module = seeded(Attention(**options)).eval()
    x = draws(3, 4, 8)
    view = describe(module, example=x[:1]).select(biases=True)
    memory = module.memory.expand(3, -1, -1)
    by_query, by_memory = reference.linear(x, 8), reference.linear(memory, 8)
    p = {k: v.double() for k, v in view.params().items()}
    if options:
        q, k, v = (p[f"attention.{part}_proj_weight"] for part in "qkv")
        sums = {f"attention.{part}_proj_weight": by_memory for part in "kv"}
        sums["attention.q_proj_weight"] = by_query
    else:
        q, k, v = p["attention.in_proj_weight"].chunk(3)
        sums = {"attention.in_proj_weight": torch.cat([by_query, by_memory, by_memory])}
    bq, bk, bv = p["attention.in_proj_bias"].chunk(3)
    heads = [
        t.unflatten(-1, (2, 4)).transpose(1, 2)
        for t in (x.double() @ q.T + bq, memory.double() @ k.T + bk, memory.double() @ v.T + bv)
    ]
    mixed = torch.softmax(heads[0] @ heads[1].mT / 2, -1) @ heads[2]
    sums["attention.out_proj.weight"] = reference.linear(mixed.transpose(1, 2).flatten(2), 8)
    for name in view.prunable:
        if name == "attention.in_proj_bias":
            sums[name] = torch.tensor([12.0] * 8 + [15.0] * 16, dtype=torch.float64)
        elif name == "attention.out_proj.bias":
            sums[name] = torch.tensor(12.0, dtype=torch.float64)
    expect(wanda(view, x), view, sums)


class Recurrence(nn.Module):
    """A recurrent layer and a classifier of its last state."""

    def __init__(self, kind: type[nn.RNNBase], **options: object) -> None:
        super().__init__()
        self.layer = kind(3, 4, **options)
        self.head = nn.Linear(4 * (1 + self.layer.bidirectional), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0].mean(1 if self.layer.batch_first else 0))


def test_lstm_of_two_layers_and_directions():
    module = seeded(Recurrence(nn.LSTM, num_layers=2, bidirectional=True, batch_first=True))
    x = draws(5, 6, 3)
    view = describe(module, example=x[:1])
    own = {name: p.detach() for name, p in module.layer.named_parameters()}
    given, sums = x.transpose(0, 1), {}
    for layer in range(2):
        outs = []
        for suffix, reverse in ((f"l{layer}", False), (f"l{layer}_reverse", True)):
            before, after = reference.lstm(given, own, suffix, reverse)
            sums[f"layer.weight_ih_{suffix}"] = reference.linear(given, 16)
            sums[f"layer.weight_hh_{suffix}"] = reference.linear(before, 16)
            outs.append(after)
        given = torch.cat(outs, -1)
    sums["head.weight"] = reference.linear(given.mean(0), 2)
    expect(wanda(view, x), view, sums)


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN])
def test_other_recurrences_give_what_they_gave(kind):
    """The head's inputs are those of the layer run at once; states are its outputs, one step earlier."""
    module = seeded(Recurrence(kind, num_layers=2))
    x = draws(6, 5, 3)
    view = describe(module, example=x[:, :1])
    ranked = wanda(view, x)
    first = kind(3, 4)
    first.load_state_dict({k: v for k, v in module.layer.state_dict().items() if k.endswith("l0")})
    with torch.no_grad():
        inner, whole = first(x)[0], module.layer(x)[0]
    before = torch.cat([torch.zeros(1, 5, 4), inner[:-1]])
    rows = len(module.layer.weight_ih_l0)
    expected = {
        "layer.weight_ih_l0": reference.linear(x, rows), "layer.weight_hh_l0": reference.linear(before, rows),
        "layer.weight_ih_l1": reference.linear(inner, rows),
        "layer.weight_hh_l1": reference.linear(torch.cat([torch.zeros(1, 5, 4), whole[:-1]]), rows),
        "head.weight": reference.linear(whole.mean(0), 2),
    }  # fmt: skip
    expect(ranked, view, expected)


def test_bert_and_its_table_of_embeddings():
    view = describe(open_model("transformers:bert", args={"task": "masked-lm", **SIZES}))
    view = view.select(include=("*", "*word_embeddings.weight", "embedding"))
    ids = torch.randint(50, (3, 9), generator=generator(0, "test", "ids"))
    sums = {name: value for name, value in hooked(view, ids).items() if name in view.prunable}
    words = "bert.embeddings.word_embeddings.weight"  # tied to the classifier over the vocabulary
    table = torch.bincount(ids.reshape(-1), minlength=50).double()[:, None].expand(50, 16)
    for name in view.prunable:
        if name == words:
            sums[name] = table + hooked(view, ids)["cls.predictions.decoder.weight"]
        elif "position" in name:
            sums[name] = (torch.arange(16) < 9).double()[:, None]  # looked up once for all texts
        elif "token_type" in name:
            sums[name] = torch.tensor([27.0, 0.0], dtype=torch.float64)[:, None]
    expect(wanda(view, ids), view, sums)


def test_gpt2_stores_inputs_first():
    config = {
        "task": "causal-lm", "n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 50, "bos_token_id": 0,
        "eos_token_id": 0,
    }  # fmt: skip
    view = describe(open_model("transformers:gpt2", args=config))
    view = view.select(include=("*attn*", "*mlp*"))
    ids = torch.randint(50, (3, 9), generator=generator(0, "test", "ids"))
    sums, handles = {}, []
    for name in view.prunable:

        def look(module: nn.Module, inputs: tuple[Tensor, ...], _out: object, name: str = name) -> None:
            sums[name] = reference.linear(inputs[0], module.nf).T

        handles.append(view.module.get_submodule(name.rpartition(".")[0]).register_forward_hook(look))
    view.forward({}, view.read(ids))
    for handle in handles:
        handle.remove()
    expect(wanda(view, ids), view, sums)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_stacked_experts_meet_the_tokens_sent_to_them(implementation):
    config = {"task": "causal-lm", **SIZES, "num_key_value_heads": 2, "num_local_experts": 4}
    module = open_model("transformers:mixtral", args=config)
    module.config._experts_implementation = implementation
    view = describe(module).select(include=("*experts*",))
    ids = torch.randint(50, (3, 9), generator=generator(0, "test", "ids"))
    (path,) = {name.rpartition(".")[0] for name in view.prunable}
    seen: list[tuple[Tensor, ...]] = []
    handle = module.get_submodule(path).register_forward_pre_hook(lambda _m, inputs: seen.append(inputs))
    with torch.no_grad():
        view.forward({}, view.read(ids))
    handle.remove()
    ((rows, chosen, _weights),) = seen
    p = view.params()
    first, second = reference.experts(
        rows, chosen, p[f"{path}.gate_up_proj"], p[f"{path}.down_proj"], functional.silu
    )
    expect(wanda(view, ids), view, {f"{path}.gate_up_proj": first, f"{path}.down_proj": second})


class Sent(nn.Module):
    """Two experts, of which the second gets no example."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])

    def forward(self, x: Tensor) -> Tensor:
        return self.experts[0](x)


def test_an_expert_without_tokens_scores_zero_and_a_layer_without_use_is_refused():
    module = seeded(Sent())
    view = describe(module, example=draws(1, 3))
    ranked = wanda(view, draws(4, 3))
    assert not ranked["experts.1.weight"].any()
    assert ranked["experts.0.weight"].all()
    module = nn.ModuleDict({"used": nn.Linear(3, 2), "left": nn.Linear(3, 2)})
    module.forward = module["used"].forward
    view = describe(module, example=draws(1, 3))
    with pytest.raises(UnsupportedModel, match=r"no input of left.weight was observed.*exclude it"):
        wanda(view, draws(4, 3))
    assert wanda(view.select(exclude=("left*",)), draws(4, 3)).keys() == {"used.weight"}


class Own(nn.Module):
    """One weight, used as a function says."""

    def __init__(self, use: object, shape: tuple[int, ...] = (4, 3)) -> None:
        super().__init__()
        self.layer = nn.Linear(shape[1], shape[0], bias=False)
        self.other = nn.Linear(4, 2, bias=False)
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.use(x, self.layer.weight))


USES = {
    "matmul": lambda x, w: x @ w.T,
    "weight first": lambda x, w: (w @ x.mT).mT,
    "einsum": lambda x, w: torch.einsum("...i,oi->...o", x, w),
    "copied": lambda x, w: functional.linear(x, w.flip(0).contiguous().flip(0)),
    "picked": lambda x, w: functional.linear(x, w[torch.tensor([0, 1, 2, 3])]),
    "row by row": lambda x, w: torch.stack([functional.linear(x, row) for row in w], -1),
    "joined": lambda x, w: functional.linear(x, torch.cat([w[:2], w[2:]])),
    "cast": lambda x, w: functional.linear(x.double(), w.double()).float(),
    "addmm": lambda x, w: torch.addmm(torch.zeros(4), x.flatten(0, 1), w.T).unflatten(0, x.shape[:2]),
    "batched": lambda x, w: torch.bmm(x, w.T.expand(len(x), -1, -1)),
}


@pytest.mark.parametrize("case", USES)
def test_the_same_map_written_in_other_ways(case):
    module = seeded(Own(USES[case]))
    x = draws(2, 5, 3)
    view = describe(module, example=x[:1])
    hidden = x @ module.layer.weight.detach().T
    sums = {"layer.weight": reference.linear(x, 4), "other.weight": reference.linear(hidden, 2)}
    expect(wanda(view, x), view, sums)


REFUSED = {
    "scaled": lambda x, w: functional.linear(x, 0.5 * w),
    "squared": lambda x, w: functional.linear(x, w * w),
    "product of weights": lambda x, w: functional.linear(x, w @ w.T @ w),
    "entry by entry": lambda x, w: x.sum(-1, keepdim=True) * w[:, 0],
    "bilinear": lambda x, w: functional.bilinear(x, x, w[:, :, None].expand(4, 3, 3).contiguous()),
    "einsum of three": lambda x, w: torch.einsum("bti,bti,oi->bto", x, x, w),
    "scaled sum": lambda x, w: torch.addmm(torch.zeros(4), x[0], w.T, alpha=2)[None],
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_observed_is_refused_by_name(case):
    view = describe(seeded(Own(REFUSED[case])), example=draws(1, 5, 3))
    with pytest.raises(
        UnsupportedModel, match=r"inputs of layer.weight cannot be observed: .*exclude it"
    ) as caught:
        wanda(view, draws(2, 5, 3))
    assert "\n" not in str(caught.value)
    with pytest.raises(UnsupportedModel, match=r"layer.weight"):
        prune(view, sparsity=0.5, score="wanda", batches=[draws(2, 5, 3)])


def test_a_weight_that_only_reaches_the_output_unseen_is_refused():
    module = Own(lambda x, w: x * w.sum())
    module.other = nn.Identity()
    with pytest.raises(UnsupportedModel, match=r"layer.weight cannot be observed"):
        wanda(describe(module, example=draws(1, 3)), draws(2, 3))


def test_projected_states_are_refused():
    module = seeded(Recurrence(nn.LSTM, proj_size=2))
    module.head = nn.Linear(2, 2)
    with pytest.raises(UnsupportedModel, match=r"layer.weight_ih_l0 .* projected state"):
        wanda(describe(module, example=draws(6, 1, 3)), draws(6, 2, 3))


def test_mixed_kernels_are_refused():
    view = describe(open_model("timm:tf_efficientnet_cc_b0_4e"))
    with pytest.raises(
        UnsupportedModel, match=r"inputs of blocks\S+ cannot be observed: it is a stack of kernels"
    ):
        wanda(view.select(include=("blocks.4*",)), torch.zeros(1, 3, 32, 32))


def test_normalised_weights_count_as_they_are_used():
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2))
    x = draws(5, 3)
    view = describe(module)
    (name,) = (w.name for w in view.weights if w.magnitude is not None)
    expected = module[0].weight.detach().double().abs() * reference.linear(x, 4).sqrt()
    torch.testing.assert_close(wanda(view, x)[name].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_float32(dtype):
    """Squares of 300 overflow float16; in bfloat16 sums would stop growing after 256 batches."""
    layer = nn.Linear(2, 2, bias=False).to(dtype)
    x = torch.tensor([[300.0, 1.0]], dtype=dtype)
    ranked = wanda(describe(layer), *[x] * 1000)["weight"]
    expected = layer.weight.detach().float().abs() * torch.tensor([300.0, 1.0]) * 1000**0.5
    torch.testing.assert_close(ranked, expected)


def test_a_later_round_sees_the_inputs_of_the_pruned_network():
    view = describe(seeded(nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))))
    keep = {n: draws(*s, name=n) > 0 for n, s in view.prunable_shapes().items()}
    x = draws(5, 3)
    ranked = wanda(view, x, mask=Mask(keep))
    hidden = x @ (view.params()["0.weight"] * keep["0.weight"]).T
    expected = (view.params()["1.weight"] * keep["1.weight"]).abs().double() * reference.linear(
        hidden, 2
    ).sqrt()
    torch.testing.assert_close(ranked["1.weight"].double(), expected, rtol=1e-5, atol=1e-6)
    assert not ranked["0.weight"][~keep["0.weight"]].any()


def test_checkpointing_and_dropout_change_nothing():
    view = describe(open_model("transformers:bert", args={"task": "masked-lm", **SIZES}))
    ids = torch.randint(50, (3, 9), generator=generator(0, "test", "ids"))
    expected = wanda(view, ids)
    view.module.train()
    checkpointing(view.module)
    ranked = wanda(view, ids)
    assert all(torch.equal(ranked[n], expected[n]) for n in expected)
    assert view.module.training


@pytest.mark.parametrize(("sparsity", "kept"), [(0.5, (4, 3)), (0.25, (6, 5))])
def test_with_uniform_rows_it_is_the_papers_method(sparsity, kept):
    """Sun et al. 2024, algorithm 1: every output keeps its best inputs by |W| ‖X‖; by hand, in float64."""
    module = seeded(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)))
    view, batches = describe(module), [draws(5, 8, name=str(i)) for i in range(3)]
    how = {"score": "wanda", "allocation": "uniform", "pattern": "per_row", "schedule": "oneshot"}
    mask = prune(view, sparsity=sparsity, batches=batches, **how)
    seen = torch.cat(batches).double()
    hidden = module.double()[1](module[0](seen)).detach()
    for layer, inputs, count in zip((module[0], module[2]), (seen, hidden), kept, strict=True):
        size = layer.weight.detach().abs() * inputs.norm(dim=0)
        name = f"{'0' if layer is module[0] else '2'}.weight"
        for row, keep in zip(size, mask.keep[name], strict=True):
            best = set(row.argsort(descending=True)[: int(keep.sum())].tolist())
            assert set(keep.nonzero().flatten().tolist()) == best
            assert int(keep.sum()) in {count, count - 1}, "rows of a weight differ by at most one"
