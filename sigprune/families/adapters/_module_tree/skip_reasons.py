"""Reasons: why a parameter is no weight, and which of them are gates."""

from __future__ import annotations

import math
import re

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from sigprune.families.adapters._module_tree.sites import Site
from sigprune.values.view import Gate, Reason

CLOSED = 0.1
"""A constant scale of at most this size closes the branch that it multiplies."""

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_NORM_CLASS = re.compile(r"norm|GRN$|Affine$", re.IGNORECASE)
# Norms that multiply by 1 + weight (or add weight times a response): their identity is weight = 0.
_ZERO_CENTRED = re.compile(
    r"(Gemma|Gemma2|Gemma3|VaultGemma|RecurrentGemma|T5Gemma|T5Gemma2|Qwen3Next|Qwen3_5|Qwen3_5Moe|Qwen4ExpText"
    r"|MiniMaxM3VL|Step3p7)RMSNorm|Muse\w+(Centered|InputScaled)RMSNorm|NemotronLayerNorm1P|VideoPrismLayerNorm"
    r"|GlobalResponseNorm|ConvNextV2GRN"
)
_SCALE = re.compile(r"weight|scale|gamma|gain|alpha|g|v|a_2|temp")
_BIAS = re.compile(r"bias|(^|_)(beta|shift|translate|b|tau)_?\d*$")
_POSITION = re.compile(
    r"pos(_|\d|$)|_pos|posi?t|rel(ative)?_|_rel($|_)|attention_bias|attn_bias|^biases$|^rpe"
)
_TOKEN = re.compile(r"token|(^|_)cls(_|$)|quer(y|ies)(?!.*proj)|latent|prompt|probe|embed")
_BY_NAME: tuple[tuple[re.Pattern[str], Reason], ...] = (
    (_POSITION, "position table"),
    (_BIAS, "bias"),
    (_TOKEN, "token"),
)
_BY_CLASS: tuple[tuple[re.Pattern[str], Reason], ...] = (
    (re.compile(r"\w*(Router|TopkRouter|TopKRouter|Gate)\.weight"), "router"),
    (re.compile(r"\w+Hyper(Connection|Head)\.(fn|hc_fn)"), "router"),
    (re.compile(r"\w+\.(A_log|A_logs|Ds?)"), "state"),
    (re.compile(r"\w+RelativeLogits\.proj"), "position table"),
    (re.compile(r"\w+Prompter\.pad_\w+"), "token"),
)
_LOGARITHM = re.compile(r"log|per_dim_scale|head_weights|temperature|^A$|^D$")
_GATE = re.compile(
    r"gamma(_?\d*|_\w+)|ls_?\d*|lambda_?\d*|layer_?scale.*|skipinit_gain|res_?scale.*|res_?weight|re_?zero.*"
    r"|alpha_(cross_attn|dense)|(.*_)?(attn|mlp|ffn|ffwd)_gate|gate_(attn|mlp|ffn|ffwd)"
    r"|\w+_logit_scale"  # of the perception encoders; no logarithm, unlike CLIP's logit_scale
)


def reason_of(site: Site) -> Reason:
    """Why a parameter without a layout is skipped (:func:`gate_of` comes first)."""
    if is_fixed_table(site):
        return "fixed table"
    if _is_norm(site.owner):
        identity_is_one = _SCALE.fullmatch(site.local) and not _ZERO_CENTRED.fullmatch(
            type(site.owner).__name__
        )
        return "norm scale" if identity_is_one else "norm shift"
    if site.local == "gain" and isinstance(site.owner, nn.Conv2d):
        return "norm scale"  # of timm's ScaledStdConv2d
    if site.tensor.numel() == 1 and "weight" not in dict(site.owner.named_parameters(recurse=False)):
        return "vector"  # an activation's offset, a temperature: 0 or 1 would not be its fresh value
    reason = _by_name(site) or ("vector" if site.vector else "other")
    frozen = not site.tensor.requires_grad and any(p.requires_grad for p in site.trail[0].parameters())
    return "fixed table" if frozen and reason == "position table" else reason


def is_fixed_table(site: Site) -> bool:
    """Whether it is a table of sines and cosines, whatever their order.

    A row of as many sines as cosines of the same angles has the squared norm d / 2. Rows of zeros are of
    padding, or of a class token. On the meta device the class has to say it.
    """
    tensor = site.tensor.detach()
    if site.vector or not tensor.is_floating_point():
        return False
    if "sinusoid" in type(site.owner).__name__.lower():
        return True
    width = tensor.shape[-1]
    if tensor.is_meta or width < 4:
        return False
    norms = tensor.double().reshape(-1, width).square().sum(1)
    rows = norms[norms > 0]
    return len(rows) > 1 and bool((rows - width / 2).abs().max() <= 1e-3 * width)


def _by_name(site: Site) -> Reason | None:
    """What the class of the owner and the name of the parameter say."""
    called = f"{type(site.owner).__name__}.{site.local}"
    if isinstance(site.owner, nn.ParameterList) and _POSITION.search(type(site.trail[-2]).__name__.lower()):
        return "position table"
    by_class = (reason for pattern, reason in _BY_CLASS if pattern.fullmatch(called))
    by_name = (reason for pattern, reason in _BY_NAME if pattern.search(site.local))
    return next(by_class, None) or next(by_name, None)


def gate_of(site: Site) -> Gate | None:
    """The gate that a parameter is, if it is one.

    By structure: a vector or scalar that the library calls a layer scale, a ReZero or SkipInit gain, a gate
    of a cross-attention. By value: any other vector that is no bias, token or table and whose entries are all
    the same and at most 0.1 in size, such as a zero-initialised norm scale (not seen on the meta device).
    """
    if not site.vector or not site.tensor.is_floating_point() or site.tensor.numel() == 0:
        return None
    by_name = not _is_norm(site.owner) and (
        "layerscale" in type(site.owner).__name__.lower()
        or _GATE.fullmatch(site.local) is not None
        or (site.local == "scale" and _GATE.fullmatch("".join(site.path[-1:])) is not None)
    )
    tensor = site.tensor.detach()
    if tensor.is_meta:
        return Gate(site.name, math.nan) if by_name else None
    if by_name:
        return Gate(site.name, float(tensor.abs().max()))
    unlike = _LOGARITHM.search(site.local) or _BIAS.search(site.local)
    if unlike or reason_of(site) not in {"norm scale", "vector"}:
        return None
    first = float(tensor.reshape(-1)[0])
    closed = abs(first) <= CLOSED and bool((tensor == first).all())
    return Gate(site.name, abs(first)) if closed else None


def _is_norm(module: nn.Module) -> bool:
    """A norm by class, or by name if all its parameters are its own (a NormFreeBlock has layers inside)."""
    if isinstance(module, _NORMS):
        return True
    named = _NORM_CLASS.search(type(module).__name__) is not None
    return named and not any(True for child in module.children() for _ in child.parameters())
