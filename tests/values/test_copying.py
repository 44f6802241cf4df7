"""Every public value can be pickled and deep-copied, and what comes back means the same."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, MixtralConfig, MixtralForCausalLM

import sigprune
from sigprune import describe, jacobian, measure, open_model, prune, reinit_
from sigprune.base.errors import BadInput, NoSpace, UnknownName
from sigprune.base.registry import MemberSpec
from sigprune.pruning.choose import Method
from sigprune.values.mask import Mask
from sigprune.values.operator import Operator
from sigprune.values.view import View
from tests.support.networks import labelled, mlp, seeded

COPIES: dict[str, Callable[[object], object]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "deepcopy": copy.deepcopy,
}


def bert() -> nn.Module:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12
        )
    )


def mixtral() -> nn.Module:
    return MixtralForCausalLM(
        MixtralConfig(
            vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=12, num_local_experts=2, num_experts_per_tok=1,
        )
    )  # fmt: skip


MODELS: dict[str, Callable[[], nn.Module]] = {
    "torch": lambda: seeded(mlp()),
    "timm": lambda: open_model("timm:test_resnet", args={"num_classes": 4}),
    "transformers": bert,
    "experts": mixtral,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("kind", MODELS)
def test_a_copied_view_is_a_view_of_the_copied_model(kind, how):
    view = describe(MODELS[kind]())
    other = COPIES[how](view)
    assert isinstance(other, View)
    assert repr(other) == repr(view).replace("fresh ", "")  # a copy may be changed without anybody seeing it
    assert (other.weights, dict(other.skipped), other.gates) == (view.weights, dict(view.skipped), view.gates)
    batch = view.example if view.embed is None else view.embed(view.example)
    expected = view.forward({}, batch).detach()
    assert torch.equal(other.forward({}, batch), expected)
    with torch.no_grad():
        for parameter in view.module.parameters():
            parameter.zero_()
    again = other.example if other.embed is None else other.embed(other.example)
    assert torch.equal(other.forward({}, again), expected)  # nothing of the first model is looked at


@pytest.mark.parametrize("how", COPIES)
def test_a_copied_context_of_a_view_changes_the_copied_model(how):
    """Experts are multiplied one by one in the copy's configuration, not in that of the first model."""
    view = describe(mixtral())
    other = COPIES[how](view)
    modes = "_experts_implementation_internal"
    vars(view.module.config)[modes] = vars(other.module.config)[modes] = "grouped_mm"
    with other.portable():
        assert vars(other.module.config)[modes] == "eager"
        assert vars(view.module.config)[modes] == "grouped_mm"


@pytest.mark.parametrize("how", COPIES)
def test_a_copied_mask_is_equal_and_still_cannot_be_changed(how):
    mask = Mask({"fc.weight": torch.tensor([[True, False], [False, False]])})
    other = COPIES[how](mask)
    assert other == mask
    assert other.digest() == mask.digest()
    with pytest.raises(TypeError, match="does not support item assignment"):
        other.keep["fc.weight"] = torch.ones(2, 2, dtype=torch.bool)


@pytest.mark.parametrize("how", COPIES)
def test_a_copied_checkpoint_holds_the_same_model(how, tmp_path):
    view = describe(seeded(mlp()))
    mask = prune(view, sparsity=0.5, score="magnitude")
    sigprune.apply_(view, mask)
    sigprune.save(tmp_path / "folder", view, mask)
    loaded = sigprune.load(tmp_path / "folder", into=mlp())
    other = COPIES[how](loaded)
    assert other.mask == mask
    assert other.manifest == loaded.manifest
    for name, tensor in other.model.state_dict().items():
        assert torch.equal(tensor, view.params()[name])


def values() -> dict[str, object]:
    """What public functions return, besides those above."""
    view = describe(seeded(mlp(activation=nn.ReLU)))
    batch = labelled(view)[0]
    reinit_(view)
    operator = jacobian(view, batch)
    mask = prune(view, sparsity=0.3, score="magnitude")
    return {
        "Step": MemberSpec("orthogonal", {"gain": 1.5}),
        "InitPolicy": sigprune.InitPolicy(depthwise="delta_orthogonal"),
        "Method": Method(),
        "Recipe": sigprune.Recipe.model_validate({"model": {"ref": "timm:test_resnet"}}),
        "Batch": view.example,
        "Spectrum": measure(operator),
        "Summary": measure(operator).summary(),
        "Profile": sigprune.profile(view, batch),
        "LayerIsometry": sigprune.layer_isometry(view),
        "Findings": sigprune.verify(view, batch),
        "Calibration": sigprune.calibrate_(view, batch, target=0.5),
        "Restoration": sigprune.restore_(view, mask),
    }


@pytest.mark.parametrize("how", COPIES)
def test_every_other_public_value(how):
    for name, value in values().items():
        other = COPIES[how](value)
        assert type(other) is type(value), name
        assert _plain(other) == _plain(value), name


def _plain(value: object) -> object:
    """Nested containers that compare entry by entry, NaN equal to itself."""
    if isinstance(value, Tensor):
        return repr(value.tolist())
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "__dict__"):
        return {key: _plain(one) for key, one in vars(value).items()}
    return repr(value)


def test_an_operator_is_its_own_copy_and_says_why_it_cannot_be_pickled():
    """Its products close over the graph of one forward pass."""
    view = describe(seeded(mlp()))
    operator = jacobian(view, labelled(view)[0])
    assert copy.deepcopy(operator) is operator
    assert isinstance(operator, Operator)
    with pytest.raises(BadInput, match=r"an Operator cannot be pickled.*measure"):
        pickle.dumps(operator)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize(
    "error",
    [BadInput("no"), UnknownName("score", "snipp", ["snip"]), NoSpace("folder", 1000, 10)],
    ids=lambda error: type(error).__name__,
)
def test_errors_leave_a_worker_process_as_they_are(error, how):
    other = COPIES[how](error)
    assert type(other) is type(error)
    assert (str(other), vars(other)) == (str(error), vars(error))
