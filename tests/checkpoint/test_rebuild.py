"""What is saved is what its configuration makes: a model changed by hand is refused, and the change named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sigprune.base.errors import BadInput
from sigprune.checkpoint import rebuild
from sigprune.checkpoint.read import load
from sigprune.checkpoint.rebuild import prove_config
from sigprune.checkpoint.save import save
from sigprune.families.adapters import adapters
from sigprune.models.opening import describe, open_model
from sigprune.values.mask import Mask
from sigprune.values.view import View
from tests.checkpoint.test_checkpoint import LIBRARIES
from tests.families.test_adapters import TRANSFORMERS, transformer


def opened(ref: str) -> nn.Module:
    return open_model(ref, args=LIBRARIES[ref])


def prove(view: View, folder: Path) -> None:
    """What ``save`` does first."""
    adapters.get(view.library).write_config(view.module, folder, None)
    prove_config(view, folder)


class Adapted(nn.Module):
    """A low-rank adapter around a linear layer, as fine-tuning libraries put them into a model."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.low = nn.Linear(base.in_features, 2, bias=False)
        self.high = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.high(self.low(x))


class Doubled(nn.Linear):
    """The same tensors, another function."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def cut_layers(model: nn.Module) -> None:
    model.vit.layers = model.vit.layers[:1]


def replace_classifier(model: nn.Module) -> None:
    model.classifier = nn.Linear(16, 7)


def replace_fc(model: nn.Module) -> None:
    model.fc = nn.Sequential(nn.Dropout(0.5), nn.Linear(model.fc.in_features, 5))


def insert_adapter(model: nn.Module) -> None:
    model.classifier = Adapted(model.classifier)


def swap_activation(model: nn.Module) -> None:
    model.vit.layers[1].mlp.activation_fn = nn.ReLU()


def swap_activation_of_timm(model: nn.Module) -> None:
    model.blocks[2].mlp.act = nn.Tanh()


def change_dropout(model: nn.Module) -> None:
    model.bert.embeddings.dropout.p = 0.5


def change_epsilon(model: nn.Module) -> None:
    model.bert.encoder.layer[1].output.LayerNorm.eps = 1e-3


def change_batchnorm(model: nn.Module) -> None:
    model.bn1.momentum = 0.5


def double(model: nn.Module) -> None:
    model.classifier.__class__ = Doubled


def hook(model: nn.Module) -> None:
    model.blocks[1].register_forward_hook(lambda *passed: 2 * passed[-1])


def patch_forward(model: nn.Module) -> None:
    model.blocks[3].mlp.forward = lambda x: x


def change_config(model: nn.Module) -> None:
    model.config.layer_norm_eps = 1e-3


def stride(model: nn.Module) -> None:
    model.layer2[0].downsample[0].stride = (1, 1)


VIT, BERT, RESNET, TIMM_VIT = "transformers:vit", "transformers:bert", "timm:test_resnet", "timm:test_vit"
CHANGES = [
    (VIT, cut_layers, r"it has vit\.layers\.1 \(ViTLayer\), which the model lacks"),
    (VIT, replace_classifier, r"classifier \(Linear\) has \w+ of the shape \(2,.*\), in the model of"),
    (RESNET, replace_fc, r"fc is a Linear, in the model a Sequential"),
    (VIT, insert_adapter, r"classifier is a Linear, in the model a Adapted"),
    (VIT, swap_activation, r"vit\.layers\.1\.mlp\.activation_fn is a \w+, in the model a ReLU"),
    (TIMM_VIT, swap_activation_of_timm, r"blocks\.2\.mlp\.act is a GELU, in the model a Tanh"),
    (BERT, change_dropout, r"bert\.embeddings\.dropout \(Dropout\) has p=0\.1, in the model 0\.5"),
    (BERT, change_epsilon, r"layer\.1\.output\.LayerNorm \(LayerNorm\) has eps=1e-12, in .* 0\.001"),
    (RESNET, change_batchnorm, r"bn1 \(BatchNorm2d\) has momentum=0\.1, in the model 0\.5"),
    (VIT, double, r"classifier is a Linear, in the model a Doubled"),
    (TIMM_VIT, hook, r"outputs for the example differ by [\d.e-]+, first in blocks\.1; "),
    (TIMM_VIT, patch_forward, r"outputs for the example differ by [\d.e-]+, first in blocks\.3\.mlp; "),
    (BERT, change_config, r"LayerNorm \(LayerNorm\) has eps=0\.001, in the model 1e-12"),
    (RESNET, stride, r"downsample\.0 \(\w+\) has stride=\(?\d.*, in the model \(1, 1\)"),
]


@pytest.mark.parametrize(
    ("ref", "change", "said"), CHANGES, ids=[change.__name__ for _, change, _ in CHANGES]
)
def test_a_model_changed_by_hand_is_refused(
    ref: str, change: Callable[[nn.Module], None], said: str, tmp_path: Path
) -> None:
    model = opened(ref)
    change(model)
    with pytest.raises(BadInput, match=said) as caught:
        save(tmp_path / "model", describe(model), Mask({}))
    assert "\n" not in str(caught.value)
    assert "library='torch'" in str(caught.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("ref", LIBRARIES)
def test_a_model_as_it_was_opened_is_saved_in_every_mode_and_dtype(ref: str, tmp_path: Path) -> None:
    model = opened(ref)
    for number, ready in enumerate([model, model.train(), model.requires_grad_(False), model.bfloat16()]):
        save(tmp_path / str(number), describe(ready), Mask({}))


@pytest.mark.parametrize("key", TRANSFORMERS)
def test_no_type_is_taken_for_another(key: str, tmp_path: Path) -> None:
    prove(describe(transformer(key)), tmp_path)


def test_the_way_out_that_the_message_names(tmp_path: Path) -> None:
    model = opened("transformers:vit")
    cut_layers(model)
    view = describe(model)
    folder = tmp_path / "own"
    save(folder, replace(view, library="torch"), Mask({}))
    into = opened("transformers:vit")
    cut_layers(into)
    loaded = load(folder, into=into).model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


def test_a_changed_configuration_that_says_so_is_saved(tmp_path: Path) -> None:
    model = opened("transformers:vit")
    cut_layers(model)
    model.config.num_hidden_layers = 1
    save(tmp_path / "cut", describe(model), Mask({}))
    assert len(load(tmp_path / "cut").model.vit.layers) == 1


def test_nan_weights_are_no_other_network(tmp_path: Path) -> None:
    """A diverged model is still the one that its configuration makes."""
    model = opened("timm:test_vit")
    with torch.no_grad():
        model.head.weight.fill_(torch.nan)
    save(tmp_path / "diverged", describe(model), Mask({}))


def test_the_proof_changes_nothing_and_copies_no_weight(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = opened("timm:test_resnet")
    view = describe(model)
    before = copy.deepcopy(model.state_dict())
    pointers = {p.data_ptr() for p in model.parameters()}
    made: list[nn.Module] = []
    compare = rebuild._first_difference

    def seen(module: nn.Module, other: nn.Module) -> str | None:
        made.append(other)
        return compare(module, other)

    monkeypatch.setattr(rebuild, "_first_difference", seen)
    mode, state = model.training, torch.get_rng_state()
    prove(view, tmp_path)
    assert {p.data_ptr() for p in made[0].parameters()} == pointers
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert model.training == mode
    assert torch.equal(torch.get_rng_state(), state)


def test_parameters_have_no_values_while_the_model_is_built() -> None:
    with rebuild._parameters_on_meta():
        first, second = nn.Linear(2, 2), nn.BatchNorm1d(2)
        second.extra = first.weight
    assert all(p.is_meta for p in (*first.parameters(), *second.parameters()))
    assert second.extra is first.weight
    assert not any(b.is_meta for b in second.buffers())
    assert not nn.Linear(2, 2).weight.is_meta


def test_an_example_that_the_model_does_not_take_leaves_the_outputs_out(tmp_path: Path) -> None:
    view: View = describe(opened("transformers:bert"))
    wrong = replace(view.example, inputs={"input_ids": torch.tensor([[10**6]])})
    save(tmp_path / "model", replace(view, example=wrong), Mask({}))


def test_buffers_that_follow_the_last_input_are_no_difference(tmp_path: Path) -> None:
    args = {"embed_dim": 16, "depth": 2, "num_heads": 2, "local_up_to_layer": 1, "num_classes": 3}
    view = describe(open_model("timm:convit_tiny", args=args))
    view.module(torch.zeros(1, 3, 224, 224))
    prove(view, tmp_path)


def test_rates_that_were_spread_in_another_dtype_are_no_difference(tmp_path: Path) -> None:
    """Those of DropPath, in bfloat16; another rate is a difference, and so is any other setting."""
    args = {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2]}
    model = open_model("transformers:swinv2", args={**args, "window_size": 2, "num_labels": 3})
    prove(describe(model.to(torch.bfloat16)), tmp_path)
    (rate, *_) = (module for module in model.modules() if getattr(module, "drop_prob", None))
    rate.drop_prob = float(torch.tensor(rate.drop_prob, dtype=torch.bfloat16))
    prove(describe(model), tmp_path)
    rate.drop_prob *= 1.1
    with pytest.raises(BadInput, match="has drop_prob="):
        prove(describe(model), tmp_path)
    assert not rebuild._same_setting("layer_norm_eps", 0.1, 0.1001)
