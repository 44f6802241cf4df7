"""Fresh look-up tables keep what their modules promise: rows of padding, short rows, sines and cosines."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    M2M100Config,
    M2M100Model,
    RobertaConfig,
    RobertaModel,
    WhisperConfig,
    WhisperModel,
)

from sigprune.init.reinit import reinit_
from sigprune.models.opening import describe
from tests.support.networks import seeded

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
TEXT_AND_TEXT = {
    "vocab_size": 40, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 12, "decoder_ffn_dim": 12,
}  # fmt: skip


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(20, 8, padding_idx=3, mode="sum")
        self.head = nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.bag(ids))


class Shared(nn.Module):
    """Two tables that share a tensor, each with a padding of its own, and an output layer that has it too."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 20, bias=False)
        self.first, self.second = nn.Embedding(20, 8, padding_idx=0), nn.Embedding(20, 8, padding_idx=-1)
        self.first.weight = self.second.weight = self.out.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.first(ids) + self.second(ids))


PADDED = {
    "bert": (
        lambda: BertModel(BertConfig(vocab_size=40, **SMALL)), "embeddings.word_embeddings.weight", (0,),
    ),
    "roberta": (
        lambda: RobertaModel(RobertaConfig(vocab_size=40, **SMALL)),
        "embeddings.position_embeddings.weight",
        (1,),
    ),
    "m2m_100": (lambda: M2M100Model(M2M100Config(**TEXT_AND_TEXT)), "shared.weight", (1,)),
    "bag": (Bag, "bag.weight", (3,)),
    "shared": (Shared, "out.weight", (0, 19)),
}  # fmt: skip


@pytest.mark.parametrize("init", ["orthogonal", "normal"])
@pytest.mark.parametrize("kind", PADDED)
def test_rows_of_padding_are_zero_and_only_they(kind, init):
    build, name, rows = PADDED[kind]
    view = describe(build(), example=torch.ones(1, 4, dtype=torch.int64))
    assert view[name].padding == rows
    reinit_(view, init)
    empty = (view.params()[name] == 0).all(1).nonzero().squeeze(1)
    assert tuple(empty.tolist()) == rows


def test_a_text_of_padding_alone_counts_for_nothing():
    view = describe(Bag(), example=torch.ones(1, 4, dtype=torch.int64))
    reinit_(view)
    short, padded = torch.tensor([[5, 6]]), torch.tensor([[5, 6, 3, 3, 3]])
    assert torch.equal(view.module(short), view.module(padded))


def test_values_that_are_kept_are_kept():
    """Only fresh values are made to fit: a trained row of padding is the owner's business."""
    view = describe(seeded(Bag()), example=torch.ones(1, 4, dtype=torch.int64))
    before = view.module.bag.weight.clone()
    reinit_(view, None)
    assert torch.equal(view.module.bag.weight, before)


@pytest.mark.parametrize("norm", [1.0, 2.0])
def test_no_row_is_longer_than_its_module_allows(norm):
    module = nn.Sequential(nn.Embedding(30, 16, max_norm=0.05, norm_type=norm), nn.Linear(16, 4))
    view = describe(module)
    assert view["0.weight"].longest == (0.05, norm)
    reinit_(view)
    lengths = torch.linalg.vector_norm(module[0].weight, norm, dim=1)
    assert lengths.max() <= 0.05
    assert lengths.min() > 0
    before = module[0].weight.clone()
    module(torch.arange(30)[None])
    assert torch.equal(module[0].weight, before)  # looking rows up changes none


TABLES = {
    "whisper": lambda: WhisperModel(
        WhisperConfig(**TEXT_AND_TEXT, num_mel_bins=8, max_source_positions=16, max_target_positions=16,
                      pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)
    ),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(
            vocab_size=40, dim=8, n_layers=1, n_heads=2, hidden_dim=12, sinusoidal_pos_embds=True
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_sines_and_cosines_keep_their_values(kind):
    view = describe(TABLES[kind]())
    fixed = [name for name, reason in view.skipped.items() if reason == "fixed table"]
    assert len(fixed) == 1
    before = view.params()[fixed[0]].clone()
    assert before.abs().max() > 0.9
    reinit_(view)
    assert torch.equal(view.params()[fixed[0]], before)


def test_a_position_table_that_is_frozen_while_others_train_keeps_its_values():
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position_embeddings = nn.Parameter(torch.ones(1, 4, 12) / 3, requires_grad=False)
            self.fc = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x + self.position_embeddings)

    for module, kept in ((Positions(), True), (Positions().requires_grad_(True), False)):
        reinit_(describe(module, example=torch.ones(1, 4, 12)))
        assert bool((module.position_embeddings == 1 / 3).all()) is kept


def test_a_learned_table_is_drawn_and_so_is_a_frozen_one_of_other_values():
    module = nn.Sequential(nn.Embedding(30, 16), nn.Linear(16, 4))
    frozen = copy.deepcopy(module).requires_grad_(False)
    for one in (module, frozen):
        before = one[0].weight.clone()
        reinit_(describe(one))
        assert not torch.equal(one[0].weight, before)
