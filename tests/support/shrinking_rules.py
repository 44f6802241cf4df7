"""What the fields of a configuration mean, told by their names, and the small value that each gets.

The same value for the same meaning everywhere is what keeps towers that feed each other consistent: every
hidden size becomes ``WIDTH``, however large it was, so that a projector between two of them still fits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping

WIDTH, INNER, HEADS, HEAD = 64, 96, 4, 16
VOCABULARY, POSITIONS, EXPERTS = 100, 64, 4
STAGE = 16
"""Width of the first stage of a network that doubles it from stage to stage."""

Rule = Callable[[int], int]


def _to(value: int) -> Rule:
    return lambda old: min(old, value) if old > 0 else old


# The first line with a pattern that matches the whole name gives the rule.
_TABLE: tuple[tuple[Rule, str], ...] = (
    (
        int,  # as it is
        r"chunk_size_feed_forward .*_(stride|padding|ratio|rate|index|coefficient|cost) .*_temperature"
        r" num_encoder_blocks keypoint_decoder_dim num_channels in_chans (in|input|audio)_channels"
        r" .*temporal_patch_size",
    ),
    (_to(9), r"(.*_)?kernel(_size|_dim)? .*(sampling|sample)_rate hop_length stride"),
    (_to(VOCABULARY), r"(.*_)?vocab(_size.*)? .*_extra_ids"),
    (_to(10), r"num_.*(labels|classes) zero_expert_num"),
    (_to(4), r"mm_tokens_per_image"),
    (_to(WIDTH // 2), r"num_pos_feats"),
    (_to(64), r"codebook_size num_embeddings .*_hash_buckets"),
    (
        _to(POSITIONS),
        r".*position_embeddings n_positions .*max_.*positions n_ctx max_seq_len .*context_length block_size"
        r" max_length .*max_pos_emb max_.*_len(gth)? model_max_length",
    ),
    (_to(8), r"n(um)?_filters"),
    (_to(32), r"base_channels upsample_initial_channel"),
    (_to(WIDTH), r"upsample_groups"),
    (_to(4), r".*groups"),
    (
        _to(16),
        r"(sliding|attention)_window(_size)? local_attention attention_chunk_size context_size",
    ),
    (_to(2), r".*(period|interval|_every_n_layers|sliding_window_pattern|sparse_step|frequency)"),
    (_to(1), r".*_offset first_k_dense_replace num_dense_layers .*layer_start_index"),
    (_to(2), r"(.*_)?n?_?layers? (.*_)?depth num_hidden_groups (.*num_.*_)?blocks num_blocks"),
    (_to(2), r".*(key_value_heads|kv_heads|kv_n_heads|key_value_groups)"),
    (_to(HEADS), r".*heads? n_head"),
    (_to(HEAD), r".*(head|key|value|rotary)_dim d_kv d_head dim_head .*head_(size|features) kv_channels"),
    (_to(16), r".*_rank .*lowrank"),
    (
        _to(2),
        r".*experts_per_tok(en)? moe_(top_?)?k topk_group n_group num_expert_group index_topk",
    ),
    (_to(1), r".*shared_experts?"),
    (_to(EXPERTS), r".*experts?"),
    (
        _to(INNER),
        r".*intermediate_(size|dim).* .*ffn_(hidden_size|dim|size) .*ff_dim d_ff dff mlp_(dim|hidden_size)"
        r" d_inner inner_dim .*feed_?forward_(size|dim|hidden_size) dim_(ff|feedforward) n_inner"
        r" .*linear_units",
    ),
    (_to(16), r".*(state_size|d_state|d_conv)"),
    (_to(10), r".*(num_queries|num_query_tokens|n(um)?_latents|num_denoising|num_.*proposals|num_prompts)"),
    (
        _to(WIDTH),
        r".*hidden(_size|_dim)?.* d_model d_latents n_embd (mask|fpn)_feature_size .*dims?"
        r" .*embed.*_size .*(channels|units|width) projection_size .*_size_per_layer_input"
        r" .*_(proj|pooler)_size .*(in|out)put_size .*_out_channels?",
    ),
    (_to(4), r"num_feature_levels n(um)?_codebooks num_quantizers"),
)
_RULES = tuple((rule, re.compile("|".join(patterns.split()))) for rule, patterns in _TABLE)

WIDTHS = re.compile(r".*(hidden_sizes?|channels|dims?|dim_per_stage|channel_list|neck_.*)|out_features")
DEPTHS = re.compile(
    r"depths?|.*num_blocks|block_sizes|blocks_per_stage|.*block_repeats|.*numb_of_layers|n_attn_blocks"
)
LIST_HEADS = re.compile(r".*heads.*|num_groups")
TOKEN = re.compile(
    r".*(token_(id|index)|(bos|eos|pad|sep|cls|mask|unk|start|end)_(id|index)|_(bos|eos|pad)_id)s?"
)


def sections(rope: dict) -> dict:
    """Rotary parameters whose sections (time, height, width) share half of what a small head rotates."""
    half = int(HEAD * rope.get("partial_rotary_factor", 1.0)) // 2
    third = max(half // 3, 1)
    return rope | {"mrope_section": [half - 2 * third, third, third]}


def pixels(patch: int, staged: bool) -> int:
    """Pixels a side: two to four patches, 32 to 64; 64 for a network that halves its resolution in stages."""
    return 64 if staged else patch * max(min(4, 64 // patch), math.ceil(32 / patch))


def small(name: str, value: int) -> int:
    """The small value of a field with one number; the value itself where no rule knows the name."""
    for rule, pattern in _RULES:
        if pattern.fullmatch(name):
            return rule(value)
    return value


def small_list(name: str, values: list[int], widths: Mapping[int, int]) -> list[int]:
    """The same for one number per stage: the number of stages stays; ``widths`` says how wide they become."""
    if DEPTHS.fullmatch(name):
        return [min(v, 2) for v in values]
    if LIST_HEADS.fullmatch(name):
        return fewer_heads(values)
    if WIDTHS.fullmatch(name):
        return [widths.get(v, small(name, v)) for v in values]
    return [small(name, v) for v in values] if "intermediate" in name else values


def fewer_heads(values: list[int]) -> list[int]:
    """The same ratios between the stages with as few heads as possible."""
    common = math.gcd(*values)
    return [v // common for v in values]


def stage_widths(fields: Iterable[Mapping[str, list[int]]]) -> dict[int, int]:
    """Old -> new widths of the stages of a whole model, from the lists of numbers in its configurations.

    All shrink by one factor, to at most ``WIDTH``; where there is a list of heads as well, each stage gets as
    many times ``HEAD`` as it has heads.
    """
    found: dict[int, int] = {}
    fixed: dict[int, int] = {}
    lists = [(name, values, each) for each in fields for name, values in each.items()]
    stages = [(v, each) for name, v, each in lists if WIDTHS.fullmatch(name) and len(set(v)) > 1]
    scale = max([1.0, *(max(values) / WIDTH for values, _ in stages)])
    for values, each in stages:
        found |= {v: v if v <= 4 else max(8, round(v / scale / 8) * 8) for v in values}
        for name, heads in each.items():
            if LIST_HEADS.fullmatch(name) and [v * heads[0] for v in values] == [
                h * values[0] for h in heads
            ]:
                fixed |= {v: HEAD * h for v, h in zip(values, fewer_heads(heads), strict=True)}
    return found | fixed
