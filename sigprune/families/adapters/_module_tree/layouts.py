"""Layouts and roles: how the module that owns a parameter reads it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from torch import nn
from torch.nn.modules.conv import _ConvNd

from sigprune.families.adapters._module_tree.fused import fused_of
from sigprune.families.adapters._module_tree.raw_parameters import raw_layout
from sigprune.families.adapters._module_tree.sites import Site
from sigprune.values.layout import Layout
from sigprune.values.weight import Role, Standardisation

_STANDARDISED = frozenset({
    "StdConv2d",
    "StdConv2dSame",
    "ScaledStdConv2d",
    "ScaledStdConv2dSame",
    "WeightStandardizedConv2d",
})
_STACKED = frozenset({"Llama4TextExperts", "LongcatFlashExperts", "Step3p7Experts", "InklingSharedExperts"})
_GATES_OF_RNN = {"LSTM": 4, "GRU": 3}
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
    raw = raw_layout(site)
    if raw is not None:
        return raw
    return _plain(site) if site.local == "weight" else None


def role_of(site: Site, heads: frozenset[str]) -> Role:
    """What a weight does in the network; ``heads`` are the paths of the classifiers."""
    owner = site.owner
    if ".".join(site.path) in heads:
        return "head"
    if _is_table(owner):
        return "embedding"
    if isinstance(owner, nn.RNNBase):
        return "recurrent"
    if any(name == "experts" for name in site.path) or "Expert" in type(owner).__name__:
        return "expert"
    if isinstance(owner, nn.MultiheadAttention) or _in_attention(site):
        return "attention"
    return "conv" if isinstance(owner, _ConvNd) else "linear"


def padding_rows(group: Sequence[Site]) -> tuple[int, ...]:
    """Rows that one of the modules sharing a look-up table takes for padding."""
    rows = (vars(site.owner).get("padding_idx") for site in group if _is_table(site.owner))
    return tuple(sorted({row for row in rows if isinstance(row, int)}))


def longest_row(group: Sequence[Site]) -> tuple[float, float] | None:
    """The smallest of the norms that the modules sharing a look-up table allow its rows."""
    tables = [vars(site.owner) for site in group if _is_table(site.owner)]
    limits = [
        (facts["max_norm"], facts["norm_type"]) for facts in tables if facts.get("max_norm") is not None
    ]
    return min(limits, default=None)


def _is_table(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding | nn.EmbeddingBag) or type(module).__name__ == "QuantEmbedding"


def bias_name(site: Site) -> str:
    """What the owner of a weight calls the bias that belongs to it, if it has one."""
    if isinstance(site.owner, nn.RNNBase):
        return site.local.replace("weight", "bias", 1)
    if site.local in {"weight", "in_proj_weight"}:
        return site.local.replace("weight", "bias")
    return f"{site.local}_bias"


def standardised(site: Site) -> Standardisation | None:
    """How the owner standardises each filter before use, if it does."""
    if type(site.owner).__name__ not in _STANDARDISED:
        return None
    facts = vars(site.owner)
    gain = site.name.removesuffix(site.local) + "gain" if "scale" in facts else None
    return Standardisation(facts["eps"], facts.get("scale", 1.0), gain)


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is GPT-2's linear layer of stored shape (in, out)."""
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def _plain(site: Site) -> Layout | None:
    """Of a module with one weight."""
    owner, shape = site.owner, site.tensor.shape
    if isinstance(owner, nn.Linear) and len(shape) == 2:
        return fused_of(site, shape[0], shape[1])
    if isinstance(owner, _ConvNd):
        if owner.transposed or owner.groups > 1:
            return Layout(transposed=owner.transposed, groups=owner.groups)
        return fused_of(site, shape[0], shape[1])
    if is_conv1d(owner):
        rows = fused_of(site, shape[1], shape[0])
        return replace(rows, transposed=True) if rows.groups == 1 else Layout(transposed=True)
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag):
        return Layout(transposed=True)  # a one-hot vector of ids times (ids, features)
    return None


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
    facts, kind = vars(site.owner), type(site.owner).__name__
    transposed = bool(facts.get("is_transposed", kind == "Llama4TextExperts"))
    known = kind.endswith("ParallelExperts") or kind in _STACKED or "is_transposed" in facts
    if site.tensor.dim() != 3 or not known or "bias" in site.local:
        return None
    rows = site.tensor.shape[2 if transposed else 1]
    fused: tuple[int, ...] = (rows // 2, rows // 2) if site.local == "gate_up_proj" else ()
    if kind.endswith("ParallelExperts"):  # a layer of its own name
        fused = fused_of(site, rows, 0).fused
    interleaved = bool(fused) and not facts.get("is_concatenated", True)
    return Layout(transposed=transposed, stacked=True, fused=fused, interleaved=interleaved)


def _in_attention(site: Site) -> bool:
    """A projection (by its name or its parent's) somewhere below a module that is an attention by name."""
    if not any(_PROJECTION.fullmatch(name) for name in site.path[-2:]):
        return False
    kinds = (type(module).__name__ for module in site.trail[1:-1])
    return any(_ATTENTION.search(name) for name in (*site.path[:-1], *kinds))
