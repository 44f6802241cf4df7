"""Examples and outputs of transformers models: every type that can has an example that it runs on."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from sigprune.base.errors import UnsupportedModel
from sigprune.base.rng import global_stream
from sigprune.families.adapters.transformers.input_sizes import facts_of
from sigprune.families.adapters.transformers.outputs import read_output
from sigprune.models.opening import describe
from tests.support.shrinking import LEFT_OUT, shrunk

FILE = yaml.safe_load((Path(__file__).parents[1] / "support" / "shrinking_examples.yaml").read_text())
NO_EXAMPLE, DOES_NOT_RUN, NOT_FINITE, TEXT_ONLY = (
    FILE[key] for key in ("no_example", "does_not_run", "not_finite", "text_only")
)
BUILT = [t for t in MODEL_MAPPING_NAMES if t not in LEFT_OUT]
RUN = [t for t in BUILT if t not in NO_EXAMPLE | DOES_NOT_RUN]
VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])

pytestmark = [
    pytest.mark.skipif(VERSION < (5, 23), reason="the hints are of the types of transformers 5.23"),
    # deprecations inside transformers and torch, which differ from one type to the next
    pytest.mark.filterwarnings("ignore"),
]


def described(model_type):
    """The view; what the adapter itself warns of is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the example of")
        return describe(shrunk(model_type))


def placeholders(model, kind):
    names = (f"{kind}_token_id", f"{kind}_token_index")
    return [v for v in (facts_of(model).tree.get(name) for name in names) if v is not None]


WITHOUT_CACHE = {"fsmt": {"use_cache": False}}
"""With a cache FSMT's decoder sees later tokens too; a view looks without one."""


@pytest.mark.slow
@pytest.mark.parametrize("model_type", RUN)
def test_every_type_runs_on_its_example(model_type):
    view = described(model_type)
    assert view.input_name == next(iter(view.example.inputs))
    with torch.no_grad():
        with global_stream(0, "forward"):  # masked autoencoders draw their mask
            output = view.forward({}, view.example)
        with global_stream(0, "forward"):
            own = read_output(view.module.eval()(**view.example.inputs, **WITHOUT_CACHE.get(model_type, {})))
    assert output.is_floating_point()
    assert output.numel() > 0
    assert bool(output.isfinite().all()) == (model_type not in NOT_FINITE)
    torch.testing.assert_close(output, own, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", RUN)
def test_images_and_sound_stand_in_the_text(model_type):
    model = shrunk(model_type)
    inputs = describe(model).example.inputs
    seen = {
        "image": any("pixel_values" in name for name in inputs),
        "audio": bool({"input_features", "input_values"} & inputs.keys()),
    }
    text_only = [kind for kind, there in seen.items() if placeholders(model, kind) and not there]
    if "input_ids" in inputs and model_type != "inkling_mm_model":  # whose sound is a second row of ids
        assert bool(text_only) == (model_type in TEXT_ONLY)


@pytest.mark.parametrize("model_type", NO_EXAMPLE)
def test_no_example_says_so(model_type):
    with pytest.raises(UnsupportedModel, match=r"cannot be told; pass describe|has no named input"):
        describe(shrunk(model_type))


@pytest.mark.parametrize("model_type", DOES_NOT_RUN)
def test_the_list_of_those_that_do_not_run_is_short(model_type):
    view = described(model_type)
    with pytest.raises(RuntimeError):
        view.forward({}, view.example)


def test_the_lists_name_types():
    assert set(NO_EXAMPLE) | set(DOES_NOT_RUN) | set(NOT_FINITE) | set(TEXT_ONLY) <= set(BUILT)
    assert len(RUN) >= 590


# The number of placeholders is that of the rows: patches, merged or pooled ones, queries, tiles, frames.
@pytest.mark.parametrize(
    ("model_type", "kind", "count"),
    [
        ("llava", "image", 16),
        ("gemma3", "image", 4),
        ("qwen2_vl", "image", 4),
        ("llava_next", "image", 36),
        ("pi0", "image", 16),
        ("voxtral", "audio", 0),
        ("qwen3_asr", "audio", 13),
        ("gemma3n", "audio", 188),
    ],
)
def test_as_many_placeholders_as_rows(model_type, kind, count):
    view = described(model_type)
    tree = facts_of(view.module).tree
    token = next(
        (n for n in placeholders(view.module, kind)), tree.get("vlm_config", {}).get("image_token_index")
    )
    found = 0 if token is None else int((view.example.inputs["input_ids"] == token).sum())
    assert found == count


@pytest.mark.parametrize("model_type", ["qwen2_vl", "vibevoice_asr", "vit_mae"])
def test_examples_are_deterministic_and_leave_the_generators_alone(model_type):
    model = shrunk(model_type).train()
    before = torch.get_rng_state()
    first, second = (describe(model).example.inputs for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())
    assert {k: v.tolist() for k, v in first.items()} == {k: v.tolist() for k, v in second.items()}


def test_main_inputs_that_are_no_image_and_no_text():
    names = {t: described(t).input_name for t in ("whisper", "patchtst", "decision_transformer", "vjepa2")}
    assert names == {
        "whisper": "input_features",
        "patchtst": "past_values",
        "decision_transformer": "states",
        "vjepa2": "pixel_values_videos",
    }


def test_spectrograms_lie_as_the_stem_reads_them():
    """(1, bins, frames) for Whisper's convolution over the bins, (1, frames, bins) for conformers."""
    shapes = {
        t: tuple(described(t).example.inputs["input_features"].shape) for t in ("whisper", "parakeet_ctc")
    }
    assert shapes == {"whisper": (1, 80, 128), "parakeet_ctc": (1, 32, 80)}


def test_a_tower_that_fails_is_told(monkeypatch):
    model = shrunk("llava")

    def broken(pixel_values):
        raise ValueError("no such patches")

    monkeypatch.setattr(model, "get_image_features", broken)
    with pytest.warns(
        UserWarning, match="llava has no pixel_values: get_image_features fails: no such patches"
    ):
        inputs = describe(model).example.inputs
    assert set(inputs) == {"input_ids", "attention_mask"}


def test_on_the_meta_device_nothing_is_counted():
    with torch.device("meta"):
        model = type(shrunk("llava"))(shrunk("llava").config)
    assert set(describe(model).example.inputs) == {"input_ids", "attention_mask"}


OUTPUT = torch.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (OUTPUT, OUTPUT),
        ({"logits": OUTPUT, "last_hidden_state": OUTPUT + 1}, OUTPUT),
        ({"logits": (OUTPUT, OUTPUT + 1)}, OUTPUT),
        ({"logits_per_video": OUTPUT[0]}, OUTPUT[0]),
        ({"last_hidden_state": OUTPUT, "pooler_output": OUTPUT[:, 0]}, OUTPUT.mean(1)),
        ({"last_hidden_state": OUTPUT[..., None]}, OUTPUT.mean(2)),
        ({"last_hidden_state": OUTPUT[:, None], "patch_input": OUTPUT}, OUTPUT.mean(1)),
        ({"last_hidden_state": OUTPUT[0]}, OUTPUT[0].mean(0, keepdim=True)),
        ({"pooler_output": OUTPUT[:, 0]}, OUTPUT[:, 0]),
        ({"feature_maps": (OUTPUT, OUTPUT[..., None] + 1)}, OUTPUT.mean(2) + 1),
        ({"language_model_outputs": {"logits": OUTPUT}, "last_hidden_state": OUTPUT + 1}, OUTPUT),
        ({"audio_codes": OUTPUT.long(), "audio_values": OUTPUT}, OUTPUT),
        ((None, [OUTPUT.long(), {"masks": OUTPUT}]), OUTPUT),
    ],
)
def test_outputs_of_every_kind_are_read(output, expected):
    torch.testing.assert_close(read_output(output), expected)


@pytest.mark.parametrize("output", [{}, {"codes": torch.arange(3)}, (), None, 3])
def test_an_output_without_numbers_is_an_error(output):
    with pytest.raises(UnsupportedModel, match="no floating-point tensor in the model's output"):
        read_output(output)
