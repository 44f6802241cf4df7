"""Fused projections: which rows of one stored matrix belong to which projection.

A rule says where the projections of a layer sit; those of transformers are found by the names of the layer
and of its parent's class, and take their sizes from the parent. A rule whose rows do not add up is not used:
the matrix is then one block, which is true of any matrix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import nn

from sigprune.families.adapters._module_tree.sites import Site
from sigprune.values.layout import Layout


class _Sizes:
    """Integers that a module, or its configuration, calls by one of several names."""

    def __init__(self, module: nn.Module) -> None:
        config = vars(module).get("config")
        inner: Mapping[str, object] = {} if config is None else vars(config)
        self._known = {**inner, **vars(module)}

    def __call__(self, *names: str) -> int:
        return next((v for n in names if isinstance(v := self._known.get(n), int) and v > 0), 0)

    @property
    def heads(self) -> int:
        """Heads of an attention."""
        return self("num_heads", "num_attention_heads", "n_head", "n_heads")

    @property
    def width(self) -> int:
        """Features of one head."""
        return self("head_dim", "head_size", "attention_head_size")


Rule = Callable[[_Sizes, int], Layout]


def _parts(*rows: int, groups: int = 1) -> Layout:
    """Blocks of these heights one after the other, in each of the groups."""
    heights = tuple(n for n in rows if n)
    return Layout(groups=groups, fused=heights if len(heights) > 1 else ())


def _halves(_: _Sizes, rows: int) -> Layout:
    return _parts(rows // 2, rows // 2)


def _alternating(_: _Sizes, rows: int) -> Layout:
    return Layout(fused=(rows // 2, rows // 2), interleaved=True)


def _thirds(_: _Sizes, rows: int) -> Layout:
    return _parts(rows // 3, rows // 3, rows // 3)


def _grouped(sizes: _Sizes, rows: int) -> Layout:
    """All queries, then fewer keys and values."""
    queries = sizes.heads * sizes.width
    if not 0 < queries < rows:
        return Layout(fused=(0,))  # does not add up
    return _parts(queries, (rows - queries) // 2, (rows - queries) // 2)


def _head_by_head(sizes: _Sizes, rows: int) -> Layout:
    """Query, key and value of the first head, then of the second, ..."""
    width = rows // max(3 * sizes.heads, 1)
    return _parts(width, width, width, groups=sizes.heads)


def _falcon(sizes: _Sizes, rows: int) -> Layout:
    if sizes("new_decoder_architecture"):
        groups = sizes("num_kv_heads")
        queries = sizes.heads // max(groups, 1) * sizes.width
        return _parts(queries, sizes.width, sizes.width, groups=groups)
    return _grouped(sizes, rows) if sizes("multi_query") else _head_by_head(sizes, rows)


def _big_code(sizes: _Sizes, rows: int) -> Layout:
    return _grouped(sizes, rows) if sizes("multi_query") else _head_by_head(sizes, rows)


def _gated_queries(sizes: _Sizes, rows: int) -> Layout:
    """Query and gate, head by head."""
    return _parts(sizes.width, sizes.width, groups=rows // max(2 * sizes.width, 1))


def _delta_net(sizes: _Sizes, rows: int) -> Layout:  # noqa: ARG001 - the signature of a rule
    """Query, key, value and gate, key head by key head."""
    values = sizes("num_v_heads") // max(sizes("num_k_heads"), 1) * sizes("head_v_dim")
    return _parts(sizes("head_k_dim"), sizes("head_k_dim"), values, values, groups=sizes("num_k_heads"))


def _mamba2(sizes: _Sizes, rows: int) -> Layout:
    """Gate, input, B, C and step."""
    inner, state = sizes("intermediate_size"), sizes("n_groups") * sizes("ssm_state_size")
    return _parts(inner, inner, state, state, rows - 2 * inner - 2 * state)


_RULES: tuple[tuple[re.Pattern[str], Rule], ...] = tuple(
    (re.compile(pattern), rule)
    for pattern, rule in (
        (r"FalconAttention\.query_key_value", _falcon),
        (r"GPTBigCodeAttention\.c_attn", _big_code),
        (r"(Bloom|GPTNeoX\w*|Persimmon)Attention\.query_key_value", _head_by_head),
        (r"DisentangledSelfAttention\.in_proj|MiniMaxLightningAttention\.qkv_proj", _head_by_head),
        (r"CodeGenAttention\.qkv_proj", lambda _, rows: _parts(*(rows // 12,) * 3, groups=4)),
        (
            r"\w+\.kv_b_proj",  # multi-head latent attention
            lambda s, _: _parts(s("qk_nope_head_dim"), s("v_head_dim"), groups=s.heads),
        ),
        (r"\w+\.kv_a_proj_with_mqa", lambda s, _: _parts(s("kv_lora_rank"), s("qk_rope_head_dim"))),
        (
            r"AXK2Attention\.q_gate_proj",
            lambda s, _: _parts(s("qk_head_dim"), s("v_head_dim"), groups=s.heads),
        ),
        (r"(Qwen3Next|Qwen3_5|Qwen3_5Moe|Qwen4ExpText)Attention\.q_proj", _gated_queries),
        (r"Qwen3NextGatedDeltaNet\.in_proj_qkvz", _delta_net),
        (
            r"Qwen3NextGatedDeltaNet\.in_proj_ba",
            lambda s, rows: _parts(*(rows // max(2 * s("num_k_heads"), 1),) * 2, groups=s("num_k_heads")),
        ),
        (r"\w+GatedDeltaNet\.in_proj_qkv", lambda s, _: _parts(s("key_dim"), s("key_dim"), s("value_dim"))),
        (r"(Falcon|Jamba)?Mamba(Mamba)?Mixer\.in_proj", _halves),
        (r"ZambaMambaMixer\.in_proj", _alternating),
        (
            r"(Falcon|Jamba)?Mamba(Mamba)?Mixer\.x_proj",
            lambda s, _: _parts(s("time_step_rank"), s("ssm_state_size"), s("ssm_state_size")),
        ),
        (
            r"(Bamba|Mamba2|NemotronHMamba2|Zamba2Mamba|FalconH1)Mixer\.in_proj"
            r"|GraniteMoe\w+MambaLayer\.in_proj",
            _mamba2,
        ),
        (r"Lfm\w+ShortConv\.in_proj|\w+MultiScaleAttention\.qkv", _thirds),
        (r"\w*Attention\w*\.(qkv|qkv_proj|Wqkv|query_key_value|c_attn)", _grouped),
        (
            r"ModernBert(Decoder)?MLP\.Wi|Moonshine(Streaming)?DecoderMLP\.fc1|(Moshi|KyutaiSpeechToText)GatingMLP\.fc1"
            r"|GraniteMoe\w*MLP\.input_linear|JetMoeMoE\.input_linear|JetMoeAttention\.kv_proj"
            r"|AyaVisionMultiModalProjector\.linear_1|ClvpGatedLinearUnit\.proj|\w+LightConv1d\.linear_start"
            r"|GraniteSpeech\w*ConvolutionModule\.(pointwise_lin1|up_conv)|Phi4MultimodalAudioGluPointWiseConv\.ext_pw_conv_1d"
            r"|\w+\.to_kv|(NeuCodec|Xcodec2)ISTFTHead\.linear|VitsTextEncoder\.project",
            _halves,
        ),
        (
            # a gated linear unit over channels; ConvNeXt's layer of that name is a Linear without one
            r"(FastSpeech2Conformer|Lasr\w*|NemotronAsr\w*|Parakeet\w*|SeamlessM4T\w*|Wav2Vec2Bert|Wav2Vec2Conformer)"
            r"ConvolutionModule\.pointwise_conv1",
            _halves,
        ),
    )
)
# timm: rows go head by head (q, k, v of head 0, then of head 1, ...)
_TIMM_HEAD_BY_HEAD = re.compile(r"\.(efficientformer|tiny_vit|levit)(\.|$)")


def fused_of(site: Site, rows: int, columns: int) -> Layout:
    """Layout of the rows (groups, fused, interleaved) of a layer; that of one block if nothing else is known.

    Args:
        site: a module with one weight.
        rows: outputs of the stored matrix.
        columns: its inputs.
    """
    name = site.path[-1] if site.path else ""
    parent = site.trail[-2] if len(site.trail) > 1 else site.owner
    origin, sizes = type(parent).__module__, _Sizes(parent)
    if _TIMM_HEAD_BY_HEAD.search(origin) or vars(parent).get("head_first") is True:
        return Layout()
    called = f"{type(parent).__name__}.{name}" if origin.startswith("transformers.") else ""
    fitting = (rule(sizes, rows) for pattern, rule in _RULES if pattern.fullmatch(called))
    found = next((layout for layout in fitting if _adds_up(layout, rows)), None)
    if found is not None:
        return found
    return _by_name(name, rows, columns, timm=origin.startswith("timm."))


def _by_name(name: str, rows: int, columns: int, *, timm: bool) -> Layout:
    """What the name of the layer alone says."""
    thirds = rows == 3 * columns or (timm and rows % 3 == 0 and rows != 2 * columns)
    if name in {"qkv", "Wqkv", "c_attn", "qkv_proj"} and thirds:
        return Layout(fused=(rows // 3,) * 3)
    if (name in {"qkv", "kv", "c_attn"} and rows == 2 * columns) or (
        name == "gate_up_proj" and rows % 2 == 0
    ):
        return Layout(fused=(rows // 2,) * 2)
    return Layout()


def _adds_up(layout: Layout, rows: int) -> bool:
    return all(n > 0 for n in (layout.groups, *layout.fused)) and sum(layout.fused) * layout.groups == rows
