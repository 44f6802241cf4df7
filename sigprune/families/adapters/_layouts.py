"""Layouts and roles: how the module that owns a parameter reads it."""

from __future__ import annotations

import re

from torch import nn
from torch.nn.modules.conv import _ConvNd

from sigprune.families.adapters._sites import Site
from sigprune.values.layout import Layout
from sigprune.values.weight import Role

_STANDARDISED = frozenset({
    "StdConv2d",
    "StdConv2dSame",
    "ScaledStdConv2d",
    "ScaledStdConv2dSame",
    "WeightStandardizedConv2d",
})
_GATES_OF_RNN = {"LSTM": 4, "GRU": 3}
# Families whose fused rows go head by head (q, k, v of head 0, then of head 1, ...), not q, then k, then v.
_HEAD_BY_HEAD = re.compile(r"\.(efficientformer|tiny_vit|levit|gpt_bigcode)(\.|$)")
_ATTENTION = re.compile(r"att(entio)?n", re.IGNORECASE)
_PROJECTION = re.compile(
    r"(to_?|w|W)?(qkv|kv|qk|q|k|v|o|out)(_?proj(ection)?|_lin)?|query|key|value|query_key_value|proj|projection|dense"
    r"|(in|c|o)_(proj|attn)|q_attn|qkv_proj|out_proj|(query|key|value|post|pos)_(proj|conv|layer)"
)


def layout_of(site: Site) -> Layout | None:
    """Where the blocks of a parameter sit, or None if it is no matrix or not known to act as one."""
    owner, tensor = site.owner, site.tensor
    if tensor.dim() < 2 or not tensor.is_floating_point():
        return None
    if isinstance(owner, nn.MultiheadAttention):
        return _multihead(site, owner)
    if isinstance(owner, nn.RNNBase):
        return _recurrent(site, owner)
    if "Experts" in type(owner).__name__:
        return _experts(site)
    return _plain(site) if site.local == "weight" else None


def role_of(site: Site, heads: frozenset[str]) -> Role:
    """What a weight does in the network; ``heads`` are the paths of the classifiers."""
    owner = site.owner
    if ".".join(site.path) in heads:
        return "head"
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    if isinstance(owner, nn.RNNBase):
        return "recurrent"
    if any(name == "experts" for name in site.path) or "Experts" in type(owner).__name__:
        return "expert"
    if isinstance(owner, nn.MultiheadAttention) or _in_attention(site):
        return "attention"
    return "conv" if isinstance(owner, _ConvNd) else "linear"


def bias_name(site: Site) -> str:
    """What the owner of a weight calls the bias that belongs to it, if it has one."""
    if isinstance(site.owner, nn.RNNBase):
        return site.local.replace("weight", "bias", 1)
    if site.local in {"weight", "in_proj_weight"}:
        return site.local.replace("weight", "bias")
    return f"{site.local}_bias"


def standardised(site: Site) -> bool:
    """Whether the owner subtracts the mean from each filter before use (weight standardisation)."""
    return type(site.owner).__name__ in _STANDARDISED


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is GPT-2's linear layer of stored shape (in, out)."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def _plain(site: Site) -> Layout | None:
    """Of a module with one weight."""
    owner, shape = site.owner, site.tensor.shape
    layout = None
    if isinstance(owner, nn.Linear) and len(shape) == 2:
        layout = Layout(fused=_fused(site, *shape))
    elif isinstance(owner, _ConvNd):
        rows = () if owner.transposed or owner.groups > 1 else _fused(site, *shape[:2])
        layout = Layout(transposed=owner.transposed, groups=owner.groups, fused=rows)
    elif is_conv1d(owner):
        layout = Layout(transposed=True, fused=_fused(site, shape[1], shape[0]))
    elif isinstance(owner, nn.Embedding | nn.EmbeddingBag):
        layout = Layout(transposed=True)  # a one-hot vector of ids times (ids, features)
    return layout


def _multihead(site: Site, owner: nn.MultiheadAttention) -> Layout | None:
    if site.local == "in_proj_weight":
        return Layout(fused=(owner.embed_dim,) * 3)
    return Layout() if site.local in {"q_proj_weight", "k_proj_weight", "v_proj_weight"} else None


def _recurrent(site: Site, owner: nn.RNNBase) -> Layout | None:
    if not site.local.startswith("weight_"):
        return None
    gates = 1 if site.local.startswith("weight_hr") else _GATES_OF_RNN.get(owner.mode, 1)
    return Layout(fused=(site.tensor.shape[0] // gates,) * gates if gates > 1 else ())


def _experts(site: Site) -> Layout | None:
    """Stacked experts (experts, out, in); ``use_experts_implementation`` of transformers marks variations.

    Other libraries' stacks are read only if their class says how they are stored.
    """
    facts = vars(site.owner)
    kind = type(site.owner).__name__
    parallel = kind.endswith("ParallelExperts")
    transposed = bool(facts.get("is_transposed", kind == "Llama4TextExperts"))
    known = parallel or kind == "Llama4TextExperts" or "is_transposed" in facts
    if site.tensor.dim() != 3 or not known or "bias" in site.local:
        return None
    rows = site.tensor.shape[2 if transposed else 1]
    fused = (rows // 2, rows // 2) if site.local == "gate_up_proj" else ()
    interleaved = bool(fused) and not facts.get("is_concatenated", True)
    return Layout(transposed=transposed, stacked=True, fused=fused, interleaved=interleaved)


def _fused(site: Site, rows: int, columns: int) -> tuple[int, ...]:
    """Row blocks of a layer that holds several projections one after the other; empty if it is one matrix.

    Projections of unequal height (grouped keys and values) and those stored head by head stay unfused.
    """
    name = site.path[-1] if site.path else ""
    parent = site.trail[-2] if len(site.trail) > 1 else site.owner
    origin = type(parent).__module__
    if _HEAD_BY_HEAD.search(origin) or vars(parent).get("head_first") is True:
        return ()
    thirds = rows == 3 * columns or (origin.startswith("timm.") and rows % 3 == 0 and rows != 2 * columns)
    if name in {"qkv", "Wqkv", "c_attn"} and thirds:
        return (rows // 3,) * 3
    if (name in {"qkv", "kv", "c_attn"} and rows == 2 * columns) or (
        name == "gate_up_proj" and rows % 2 == 0
    ):
        return (rows // 2,) * 2
    return ()


def _in_attention(site: Site) -> bool:
    """A projection (by its name or its parent's) somewhere below a module that is an attention by name."""
    if not any(_PROJECTION.fullmatch(name) for name in site.path[-2:]):
        return False
    kinds = (type(module).__name__ for module in site.trail[1:-1])
    return any(_ATTENTION.search(name) for name in (*site.path[:-1], *kinds))
