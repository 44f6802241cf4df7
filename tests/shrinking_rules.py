"""What the fields of a configuration mean, told by their names, and the small value that each gets.

The same value for the same meaning everywhere is what keeps towers that feed each other consistent: every hidden
size becomes ``WIDTH``, however large it was, so that a projector between two of them still fits.
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


# The first pattern that matches the whole name gives the rule.
SCALARS: tuple[tuple[re.Pattern[str], Rule], ...] = tuple(
    (re.compile(pattern), rule)
    for pattern, rule in (
        (r"chunk_size_feed_forward|.*_(stride|padding|ratio|rate|index|coefficient|cost)|.*_temperature", int),
        (r".*_kernel(_size)?|kernel_size|.*kernel_dim|.*(sampling|sample)_rate|hop_length|stride", _to(9)),
        (r"num_encoder_blocks|num_channels|in_chans|in_channels|input_channels|audio_channels|.*temporal_patch_size", int),
        (r"(.*_)?vocab(_size.*)?|.*vocab_size|pretrained_cfg|.*_extra_ids", _to(VOCABULARY)),
        (r"num_.*labels|num_.*classes|zero_expert_num", _to(10)),
        (r"mm_tokens_per_image", _to(4)),
        (r"num_pos_feats", _to(WIDTH // 2)),
        (r"codebook_size|num_embeddings|.*_hash_buckets|entity_vocab_size", _to(64)),
        (r".*position_embeddings|n_positions|.*max_.*positions|n_ctx|max_seq_len|.*context_length|block_size"
         r"|max_length|.*max_pos_emb|max_.*_len(gth)?|model_max_length", _to(POSITIONS)),
        (r"num_filters|n_filters", _to(8)),
        (r"base_channels|upsample_initial_channel", _to(32)),
        (r"upsample_groups", _to(WIDTH)),
        (r".*groups|num_conv_pos_embedding_groups", _to(4)),
        (r"sliding_window(_size)?|attention_window(_size)?|local_attention|attention_chunk_size|context_size", _to(16)),
        (r".*(period|interval|_every_n_layers|sliding_window_pattern|sparse_step|frequency)", _to(2)),
        (r".*(_offset)|first_k_dense_replace|num_dense_layers|.*layer_start_index", _to(1)),
        (r"(.*_)?(num|n)_(hidden_|encoder_|decoder_)?layers|(.*_)?n?_?layers?|(.*_)?depth|num_hidden_groups"
         r"|.*num_.*layers|.*_depth|num_.*_blocks|num_blocks|max_window_layers", _to(2)),
        (r".*(key_value_heads|kv_heads|kv_n_heads|key_value_groups)", _to(2)),
        (r".*(num_(attention_|.*_)?heads|n_heads?|attention_heads|_n_heads|num_.*heads|resampler_heads)",
         _to(HEADS)),
        (r".*(head_dim|d_kv|d_head|dim_head|head_size|kv_channels|key_dim|value_dim|rotary_dim|head_features)",
         _to(HEAD)),
        (r".*(lora_rank|lowrank|_rank|dt_rank|time_step_rank)", _to(16)),
        (r".*(num_experts_per_tok(en)?|moe_topk?|moe_k|moe_top_k|topk_group|n_group|num_expert_group|index_topk"
         r"|num_selected_experts)", _to(2)),
        (r".*shared_experts?", _to(1)),
        (r".*(num_(local_|routed_)?experts|n_routed_experts|moe_num_experts|num_.*experts?)", _to(EXPERTS)),
        (r".*(intermediate_(size|dim).*|ffn_(hidden_size|dim)|ff_dim|ffn_hidden|d_ff|dff|mlp_dim|d_inner|inner_dim"
         r"|feed_?forward_(size|dim|hidden_size)|dim_feedforward|linear_units|mlp_hidden_size|ffn_size"
         r"|dim_ff|n_inner)", _to(INNER)),
        (r".*(state_size|d_state|d_conv)", _to(16)),
        (r".*(num_queries|num_query_tokens|num_latents|n_latents|num_denoising|num_.*proposals|num_prompts"
         r"|num_tokens)", _to(10)),
        (r".*(hidden_(size|dim).*|d_model|d_latents|n_embd|(mask|fpn)_feature_size|embed(ding)?_(dim|size)|emb_dim|embd?_dim|dim|width|projection_size"
         r"|proj(ection)?_dim|.*_dim|hidden|channels|units|projector_hidden_size|.*_size_per_layer_input"
         r"|num_filters|base_channels|.*_proj_size|out_dim|.*_(pooler|output)_(hidden_)?size|n_hidden|lru_width"
         r"|.*_out_channels?|.*_hidden_size|.*_dims?|ssm_state_size|.*channels|output_size|input_size)", _to(WIDTH)),
        (r"num_feature_levels|num_codebooks|n_codebooks|num_quantizers", _to(4)),
    )
)  # fmt: skip

WIDTHS = re.compile(r".*(hidden_sizes?|channels|dims?|dim_per_stage|channel_list|neck_.*)|out_features")
DEPTHS = re.compile(
    r"depths?|.*num_blocks|block_sizes|blocks_per_stage|.*block_repeats|.*numb_of_layers|n_attn_blocks"
)
LIST_HEADS = re.compile(r".*heads.*|num_groups")
INDICES = re.compile(r".*(indexes|indices|idxs?|_ids|layers)$")
TOKEN = re.compile(
    r".*(token_(id|index)|(bos|eos|pad|sep|cls|mask|unk|start|end)_(id|index)|_(bos|eos|pad)_id)s?"
)


def sections(rope: dict) -> dict:
    """Rotary parameters whose three sections (time, height, width) share half a small head's rotated entries."""
    half = int(HEAD * rope.get("partial_rotary_factor", 1.0)) // 2
    third = max(half // 3, 1)
    return rope | {"mrope_section": [half - 2 * third, third, third]}


def small(name: str, value: int) -> int:
    """The small value of a field with one number; the value itself where no rule knows the name."""
    for pattern, rule in SCALARS:
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
    return values


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
