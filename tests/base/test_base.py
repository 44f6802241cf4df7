"""Seeds, named tensors, errors."""

from __future__ import annotations

import pytest
import torch

from sigprune.base import errors, rng
from sigprune.base.tensors import count, digest, flatten


def test_streams_are_independent_and_repeatable():
    draws = {
        (s, p, n): torch.rand(4, generator=rng.generator(s, p, n)).tolist()
        for s in (0, 1)
        for p in ("init", "prune")
        for n in ("", "a")
    }
    assert len({tuple(v) for v in draws.values()}) == len(draws)
    assert draws[0, "init", "a"] == torch.rand(4, generator=rng.generator(0, "init", "a")).tolist()


def test_names_do_not_run_together():
    assert rng.derive(1, "ab", "c") != rng.derive(1, "a", "bc")


def test_global_stream_restores_the_state():
    state = torch.get_rng_state()
    with rng.global_stream(0, "test"):
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), state)
    with rng.global_stream(0, "test"):
        assert torch.equal(torch.rand(3), inside)


def test_digest_sees_every_difference():
    base = {"x": torch.tensor([0.0, 1.0])}
    others = [
        {"y": base["x"]},
        {"x": torch.tensor([-0.0, 1.0])},
        {"x": base["x"].double()},
        {"x": base["x"][None]},
        {"x": base["x"].to(torch.bfloat16)},
    ]
    digests = {digest(t) for t in [base, *others]}
    assert len(digests) == 6


def test_count_and_flatten():
    tensors = {"b": torch.ones(2, 2), "a": torch.zeros(1)}
    assert count(tensors) == 5
    assert flatten(tensors).tolist() == [1, 1, 1, 1, 0]


def test_unknown_names_are_suggested_or_listed():
    assert "did you mean snip" in str(errors.UnknownName("score", "snpi", ["snip", "random"]))
    assert "known: a, b" in str(errors.UnknownName("score", "zzz", ["b", "a"]))
    assert issubclass(errors.UnknownName, errors.BadInput)
    with pytest.raises(ValueError, match="nothing is known"):
        raise errors.UnknownName("x", "y", [])


@pytest.mark.parametrize(
    ("name", "known", "nearest"),
    [
        ("vit_tiny", ["vit_base_patch16_224", "vit_tiny_r_s16_p8_224", "vit_tiny_patch16_224"],
         ["vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224"]),
        ("VIT_Tiny", ["vit_tiny_patch16_224"], ["vit_tiny_patch16_224"]),
        ("vit", ["vitamin", "vit_base_patch16_224"], ["vit_base_patch16_224", "vitamin"]),
        ("tiny_patch16", ["vit_tiny_patch16_224", "resnet18"], ["vit_tiny_patch16_224"]),
        ("snpi", ["snip", "random"], ["snip"]),
        ("sn", ["snip_it", "synflow"], []),
        ("", ["snip"], []),
    ],
)  # fmt: skip
def test_a_name_that_is_unfinished_or_mistyped_has_neighbours(name, known, nearest):
    assert errors.nearest(name, known) == nearest


def test_a_list_of_valid_names_is_whole_or_says_how_much_it_leaves_out():
    names = [f"name{i:02}" for i in range(64)]
    assert errors.suggestion("zzz", names) == f"known: {', '.join(names)}"
    assert errors.suggestion("zzz", [*names, "other", "others"], limit=65).endswith(
        ", name63, other and 1 more"
    )
