"""Raw parameters that act as matrices, of modules that are neither layers of torch nor stacks of experts.

Read in timm 1.0.31 and transformers 5.23: ``F.linear``, ``matmul``, ``bmm`` or ``einsum`` with the parameter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from sigprune.families.adapters._module_tree.sites import Site
from sigprune.values.layout import Layout


def _flat(*, transposed: bool) -> Callable[[Site], Layout]:
    """The axes after the first belong together."""

    def read(site: Site) -> Layout:
        first, *rest = site.tensor.shape
        return Layout(shape=(first, math.prod(rest)), transposed=transposed)

    return read


def _conditional(site: Site) -> Layout:
    """Timm's CondConv2d: one row per expert, each a whole kernel."""
    facts = vars(site.owner)
    return Layout(shape=(facts["num_experts"], *facts["weight_shape"]), stacked=True, groups=facts["groups"])


def _dbrx(site: Site) -> Layout:
    """Experts are slices of the rows; w2 is stored (in, out)."""
    experts = vars(site.owner)["moe_num_experts"]
    return Layout(groups=experts, transposed=site.local == "w2")


def _zamba(site: Site) -> Layout:
    """Per head: rows for the step, B and C."""
    facts = vars(site.owner)
    rank, state = facts["time_step_rank"], facts["ssm_state_size"]
    return Layout(stacked=True, fused=(rank, state, state))


def _as(layout: Layout) -> Callable[[Site], Layout]:
    return lambda _: layout


_RULES: tuple[tuple[re.Pattern[str], Callable[[Site], Layout]], ...] = tuple(
    (re.compile(pattern), read)
    for pattern, read in (
        (r"CondConv2d\.weight", _conditional),
        (r"DbrxExpertGLU\.(w1|v1|w2)", _dbrx),
        (r"XLNetRelativeAttention\.[qkvr]|FunnelRelMultiheadAttention\.r_kernel", _flat(transposed=True)),
        (r"XLNetRelativeAttention\.o", _flat(transposed=False)),
        (r"RecurrentGemmaRglru\.\w+_gate_weight", _as(Layout(stacked=True, transposed=True))),
        (r"CsmCodebooksHead\.weight", _as(Layout(stacked=True, transposed=True))),
        (r"ZambaMambaMixer\.x_proj_weight", _zamba),
        (r"ZambaMambaMixer\.dt_proj_weight", _as(Layout(stacked=True))),
        (r"QuantLinear\.weight", _as(Layout())),
        (r"QuantEmbedding\.weight", _as(Layout(transposed=True))),
        (
            r"\w+MultiModalProjector\.mm_input_projection_weight|XCLIPModel\.prompts_visual_projection"
            r"|OmDetTurboLanguageBackbone\.text_projection",
            _as(Layout(transposed=True)),
        ),
    )
)


def raw_layout(site: Site) -> Layout | None:
    """Where the blocks of such a parameter sit; None if it is none of them."""
    name = f"{type(site.owner).__name__}.{site.local}"
    return next((read(site) for pattern, read in _RULES if pattern.fullmatch(name)), None)
