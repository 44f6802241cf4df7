"""Whole runs: equal bits for equal recipes, folders that the libraries load, nothing left of a failure."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sigprune.base.errors import BadInput, DataError, Diverged, FindingFailed, FolderExists
from sigprune.base.progress import ProgressCallback
from sigprune.base.tensors import digest
from sigprune.checkpoint.read import load
from sigprune.experiment import pipeline
from sigprune.experiment.runner import run
from sigprune.families.adapters import adapters
from sigprune.recipe.recipe import Recipe, load_recipe, parse_recipe
from sigprune.report.record import Report, gains
from tests.support.networks import mlp
from tests.support.sharing import shared

FILES = {
    "README.md", "config.json", "figures/gains.png", "figures/singular_values.png", "figures/sparsity.png",
    "figures/training.png",
    "model.safetensors", "model.sparse.safetensors", "recipe.yaml", "report.json",
}  # fmt: skip
MOMENTS = ["as opened", "after init", "after pruning", "after isometry"]
VIT = {
    "image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip
MODELS = {
    "timm": ("timm:test_resnet", {"in_chans": 1}, 16),
    "transformers": ("transformers:vit", VIT, None),
    "torch": ("torch:tests.support.networks.mlp", {"widths": [64, 32, 32, 10]}, None),
}


def recipe(library: str = "timm", **changes: object) -> Recipe:
    """One epoch on the digits with a small network; ``changes`` replace whole sections."""
    ref, args, size = MODELS[library]
    sections = {
        "model": {"ref": ref, "args": args},
        "data": {"size": size},
        "train": {"epochs": 1, "lr": 0.02},
    }
    if "model" not in changes:  # kept weights are not restored unless that is asked for
        sections["isometry"] = {"name": "lbfgs", "steps": 20}
    return parse_recipe({**sections, **changes})


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module", params=list(MODELS))
def finished(request, tmp_path_factory) -> tuple[str, Path, Report]:
    """(library, folder, report) of one run."""

    def make(place: Path) -> None:
        report = run(recipe(request.param), place / "run")
        (place / "report.pickle").write_bytes(pickle.dumps(report))

    place = shared(tmp_path_factory, f"run-{request.param}", make)
    return request.param, place / "run", pickle.loads((place / "report.pickle").read_bytes())


def test_a_run_writes_everything_and_says_what_happened(finished):
    library, folder, report = finished
    assert files(folder) == FILES | ({"preprocessor_config.json"} if library == "transformers" else set())
    assert Report.read(folder) == report
    facts = report.facts
    assert [m["moment"] for m in facts["signal"]] == MOMENTS
    assert facts["model"]["library"] == library
    assert facts["mask"]["kept"] == round(facts["mask"]["total"] * 0.1)
    assert len(facts["training"]["epochs"]) == len(facts["dense"]["epochs"]) == 1
    assert 0 <= facts["evaluation"]["reload_difference"] < 1e-3
    assert all(0 < score <= 1 for score in (report.test_accuracy, report.dense_test_accuracy))
    assert load_recipe(folder / "recipe.yaml").digest == facts["digest"] == recipe(library).digest


def test_the_report_says_what_each_part_started_from(finished):
    library, folder, report = finished
    rows = {row["part"]: row for row in report.facts["init"]}
    assert rows["weights"]["does"] == "orthogonal (gain 1.0)"
    assert rows["heads"]["tensors"] == 1
    assert ("norms" in rows) == (library != "torch")
    assert all(row["reason"] for row in rows.values())
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"| heads | 1 | orthogonal (gain 1.0) | {rows['heads']['reason']} |" in card


@pytest.mark.slow
def test_a_fresh_head_on_kept_weights_and_standardised_weights(tmp_path):
    """NFNet: what its convolutions use has one singular value each, and zeros do not stay zeros in it."""
    args = {"in_chans": 1}
    small = {"model": {"ref": "timm:test_nfnet", "args": args}, "data": {"size": 32}, "train": {"epochs": 0}}
    prune = {"sparsity": 0.5, "score": "magnitude", "include": ["stages.*conv*.weight"]}
    steps = {"baselines": [], "isometry": None, "prune": prune}
    fresh = run(parse_recipe({**small, **steps}), tmp_path / "fresh")
    (told,) = [row for row in fresh.facts["init"] if row["part"] == "standardised weights"]
    assert told["tensors"] == 25
    assert float(told["does"].split(" at most ")[1].split()[0]) < 1e-3
    assert "do not stay zero" in told["reason"]
    assert "standardised_weights" in {f["name"] for f in fresh.failed}
    model = {"ref": str(tmp_path / "fresh"), "pretrained": True}
    kept = run(parse_recipe({**small, **steps, "model": model, "init": {"head": "lecun"}}), tmp_path / "kept")
    rows = {row["part"]: row["does"] for row in kept.facts["init"]}
    assert rows["heads"] == "lecun (gain 1.0)"
    assert rows["weights"] == rows["norms"] == "kept"
    before, after = (
        timm.create_model(f"local-dir:{tmp_path / name}", pretrained=True).state_dict()
        for name in ("fresh", "kept")
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed >= {"head.fc.weight"}
    assert changed <= {"head.fc.weight", *fresh_names(kept)}


@pytest.mark.slow
def test_calibration_scales_to_isometry_and_restoration_aims_at_what_it_found(tmp_path):
    report = run(recipe("timm", init={"calibrate": 1.0}, train={"epochs": 0}, baselines=[]), tmp_path / "run")
    first, second = report.facts["calibration"]
    assert (first["moment"], second["moment"]) == ("after init", "after isometry")
    levels = {m["moment"]: m["summary"]["mean_square"] ** 0.5 for m in report.facts["signal"]}
    assert first["before"] < 0.5
    for moment, done in (("after init", first), ("after isometry", second)):
        assert done["after"] == pytest.approx(1, abs=0.1)
        assert levels[moment] == pytest.approx(done["after"], rel=0.2)
    gain = first["factors"]["weights"]
    module = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
    again = second["factors"].get("weights", 1.0)
    stem = torch.linalg.svdvals(module.conv1[0].weight.detach().flatten(1))
    assert float(stem.mean()) == pytest.approx(gain * again, rel=0.25)
    assert "- calibrated after init: weights by" in (tmp_path / "run" / "README.md").read_text(
        encoding="utf-8"
    )


def fresh_names(report: Report) -> set[str]:
    """What pruning may have changed."""
    return {layer["name"] for layer in report.facts["mask"]["layers"]}


def test_every_moment_has_a_profile(finished):
    """One row per stage, in the order of running; the last one is the whole network."""
    _, folder, report = finished
    for moment in report.facts["signal"]:
        rows = moment["profile"]
        stages = {layer["stage"] for layer in report.facts["mask"]["layers"]}
        assert stages <= {row["stage"] for row in rows}
        assert all(row["forward"] > 0 < row["backward"] and row["activation"] > 0 for row in rows)
        size = moment["summary"]["mean_square"] ** 0.5
        assert abs(rows[-1]["forward"] - size) <= 5 * rows[-1]["forward_error"] + 1e-6
    weakest = gains(report.facts["signal"][-1]).weakest
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"The largest change of the signal after isometry: {weakest}." in card


def test_effective_sparsity_and_dead_units_are_among_the_findings(finished):
    found = {f["name"]: f for f in finished[2].facts["findings"]}
    assert 0.9 <= found["effective_sparsity"]["value"] < 0.95
    assert 0 <= found["dead_units"]["value"] < 0.5


def test_weights_that_are_not_numbers_are_one_line(tmp_path):
    """Trained weights with a NaN among them: refused before anything is measured."""
    run(recipe(train={"epochs": 0}, baselines=[]), tmp_path / "first")
    tensors = load_file(tmp_path / "first" / "model.safetensors")
    tensors["layer1.0.conv1.weight"][0, 0] = float("nan")
    save_file(tensors, tmp_path / "first" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "first" / "model.sparse.safetensors").unlink()
    model = {"ref": str(tmp_path / "first"), "pretrained": True}
    with pytest.raises(BadInput, match=r"layer1\.0\.conv1\.weight holds NaN or infinity") as caught:
        run(recipe(model=model, train={"epochs": 0}), tmp_path / "next")
    assert "\n" not in str(caught.value)


def test_restoring_isometry_brings_the_singular_values_up(finished):
    """Pruning nine tenths makes the mean singular value fall; restoration brings it back towards 1."""
    means = {m["moment"]: m["summary"]["mean"] for m in finished[2].facts["signal"]}
    assert means["after pruning"] < means["after isometry"]
    assert abs(means["after isometry"] - 1) < abs(means["after pruning"] - 1)


def test_dense_and_packed_files_hold_the_same_network(finished):
    library, folder, report = finished
    own = adapters.get("torch").build("tests.support.networks.mlp", MODELS["torch"][1])
    checkpoint = load(folder, into=own if library == "torch" else None)
    assert checkpoint.mask.digest() == report.facts["mask"]["digest"]
    if library == "torch":
        return
    if library == "timm":
        plain = timm.create_model(f"local-dir:{folder}", pretrained=True)
    else:
        from transformers import AutoModelForImageClassification

        plain = AutoModelForImageClassification.from_pretrained(folder)
    assert digest(plain.state_dict()) == digest(checkpoint.model.state_dict())
    zeros = sum(int((plain.state_dict()[name] == 0).sum()) for name in checkpoint.mask.keep)
    assert zeros >= checkpoint.mask.total - checkpoint.mask.kept


@pytest.mark.parametrize(
    "finished",
    ["torch", *(pytest.param(library, marks=pytest.mark.slow) for library in ("timm", "transformers"))],
    indirect=True,
)
def test_equal_recipes_give_equal_bits(finished, tmp_path):
    """Whatever the state of torch's own generators; all but the report's timing."""
    library, folder, report = finished
    torch.manual_seed(1234)
    again = run(recipe(library), tmp_path / "again")
    assert again.without_timing() == report.without_timing()
    for name in FILES - {"report.json"}:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize("finished", ["torch"], indirect=True)
def test_another_seed_gives_another_mask(finished, tmp_path):
    library, _, report = finished
    other = run(recipe(library, seed=1, train={"epochs": 0}), tmp_path / "other")
    assert other.facts["mask"]["digest"] != report.facts["mask"]["digest"]
    assert other.facts["mask"]["kept"] == report.facts["mask"]["kept"]


@pytest.mark.parametrize("finished", ["timm", "transformers"], indirect=True)
def test_a_run_can_start_from_the_weights_of_another(finished, tmp_path):
    library, folder, _ = finished
    start = load(folder).model.state_dict()
    changed = recipe(
        library,
        model={"ref": str(folder), "pretrained": True},
        prune={"sparsity": 0.95, "score": "magnitude"},
        train={"epochs": 0},
        baselines=[],
    )
    report = run(changed, tmp_path / "next")
    assert [m["moment"] for m in report.facts["signal"]] == ["as opened", "after pruning"]
    assert report.facts["isometry"] is None
    checkpoint = load(tmp_path / "next")
    for name, value in checkpoint.model.state_dict().items():
        keep = checkpoint.mask.keep.get(name, torch.ones_like(value, dtype=torch.bool))
        assert torch.equal(value, start[name].masked_fill(~keep, 0)), name


@pytest.mark.slow
def test_the_shipped_quickstart_keeps_its_promise(tmp_path):
    """Sparsity 0.90 exactly, at least 95 % on the digits, the dense accuracy beside it."""
    report = run("quickstart", tmp_path / "quickstart")
    mask = report.facts["mask"]
    assert mask["kept"] * 10 == mask["total"] == 371_280
    assert report.test_accuracy >= 0.95
    assert report.dense_test_accuracy >= 0.95
    assert not report.dead_layers


def test_a_network_of_ones_own_gets_the_size_of_the_data(tmp_path):
    """Its layers say how many channels it takes, and nothing of height and width."""
    own = {"ref": "torch:tests.support.networks.FlatConv"}
    run(recipe(model=own, data={}, prune={"score": "synflow", "allocation": "erk"}), tmp_path / "own")
    assert (tmp_path / "own" / "model.sparse.safetensors").is_file()


def test_data_without_a_test_split(tmp_path):
    noise = {"source": {"name": "noise", "examples": 32, "channels": 1}, "size": 8}
    report = run(recipe("torch", data=noise), tmp_path / "noise")
    assert report.test_accuracy is report.dense_test_accuracy is None
    assert "accuracy means nothing" in (tmp_path / "noise" / "README.md").read_text()


@pytest.mark.slow
def test_every_mode_of_batchnorm_scores_and_is_measured(tmp_path):
    """Fresh networks have fresh statistics, so that only the score of ``batch`` differs."""
    model = {"ref": "timm:test_resnet", "args": {"in_chans": 1}}
    settings = {"train": {"epochs": 0}, "baselines": [], "isometry": None}
    fresh, evaluated, batch = (
        run(recipe(model={**model, "batchnorm": mode}, **settings), tmp_path / mode).facts
        for mode in ("fresh", "eval", "batch")
    )
    for other in (evaluated, batch):
        assert [m["moment"] for m in other["signal"]] == MOMENTS[:3]
        assert other["signal"][1] == fresh["signal"][1]
        assert (other["mask"]["digest"] == fresh["mask"]["digest"]) == (other is evaluated)


class Listener:
    """Remembers which steps began, and how far each of them came."""

    def __init__(self) -> None:
        self.steps: dict[str, list[tuple[int, int]]] = {}

    @contextmanager
    def step(self, title: str) -> Iterator[ProgressCallback]:
        told = self.steps[title] = []
        yield lambda done, total: told.append((done, total))


@pytest.mark.slow
def test_long_steps_tell_how_far_they_are(tmp_path):
    listener = Listener()
    changed = recipe("torch", prune={"score": "snip", "batches": 3, "batch_size": 8})
    run(changed, tmp_path / "told", progress=listener)
    measured = [f"measure {moment}" for moment in MOMENTS]
    assert list(listener.steps) == [
        "open", measured[0], "initialise", measured[1], "prune", measured[2], "isometry", measured[3],
        "follow paths", "save before training", "train sparse", "train dense", "save", "load back",
    ]  # fmt: skip
    for title in (*measured, "prune", "isometry", "train sparse", "train dense"):
        told = listener.steps[title]
        assert told[-1][0] == told[-1][1], title
        assert told == sorted(told), title
    assert listener.steps["prune"][0] == (1, 3)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        # closed gates: SNIP would prune whole branches in silence
        (
            {"init": {"gates": "keep"}},
            FindingFailed,
            r"dead_weights is \d+ \(\S+, .*\), expected 0; .*set init.gates: open",
        ),
        (
            {"library": "torch", "verify": {"mean_jsv": {"low": 50, "high": 60, "required": True}}},
            FindingFailed,
            r"mean_jsv is .*; the signal .*; at \S+ the forward gain falls from \S+ to ",
        ),
        (
            {
                "library": "torch",
                "verify": {"effective_sparsity": {"high": 0.0, "required": True}},
                "prune": {"sparsity": 0.95, "score": "random"},
            },
            FindingFailed,
            r"effective_sparsity is 0\.9[5-9]\d* \(kept entries on no path in \S+: \d+ of .*\), "
            r"expected 0\.949\d*;",
        ),
        (
            {
                "library": "torch",
                "verify": {"dead_units": {"high": 0.01, "required": True}},
                "prune": {"sparsity": 0.95, "score": "random"},
            },
            FindingFailed,
            r"dead_units is 0\.\d+ \(units on no path in \S+: \d+ of .*\), expected 0 to 0\.01;",
        ),
        ({"model": {"ref": "timm:test_resnot"}}, BadInput, "did you mean test_resnet"),
        ({"data": {"source": {"name": "fashion_mnist", "folder": "no/where"}}}, DataError, "no/where"),
        ({"device": "cuda"}, BadInput, "no CUDA device"),
        # what would otherwise stop the run after hours, or with a traceback
        ({"train": {"precision": "fp16"}, "device": "cpu"}, BadInput, "fp16 needs a CUDA device"),
        ({"init": {"method": {"name": "orthogonal", "gain": 1e30}}}, FindingFailed, "finite_output"),
        (
            {"model": {"ref": "transformers:vit", "args": VIT}, "data": {"size": 16}},
            DataError,
            r"does not take inputs of shape \(1, 16, 16\): .*set data.size, or the model's own size",
        ),
        (
            {"model": {"ref": "timm:test_resnet", "args": {"in_chans": 1, "num_classes": 5}}},
            DataError,
            "the data have 10 classes, but test_resnet gives an output of shape",
        ),
        (
            {
                "model": {
                    "ref": "torch:torch.nn.Conv3d",
                    "args": {"in_channels": 1, "out_channels": 2, "kernel_size": 3},
                }
            },
            DataError,
            "takes inputs of 1 x 32 x 32 x 32",
        ),
        ({"data": {"batch_size": 1, "size": 16}}, DataError, "BatchNorm cannot train on one example"),
    ],
    ids=[
        "gates",
        "finding",
        "paths",
        "units",
        "model",
        "data",
        "device",
        "precision",
        "overflow",
        "size",
        "classes",
        "volume",
        "batch of one",
    ],
)
def test_a_failure_leaves_nothing_behind(tmp_path, changes, error, message):
    if "device" in changes and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    listener = Listener()
    with pytest.raises(error, match=message):
        run(recipe(**changes), tmp_path / "a" / "b", progress=listener)
    assert not list(tmp_path.iterdir())
    if error is FindingFailed:
        assert not any(title.startswith("train") for title in listener.steps)


@pytest.mark.parametrize("lr", [1e9, pytest.param(1e18, marks=pytest.mark.slow)])
def test_a_diverged_training_keeps_the_mask_and_what_was_measured(tmp_path, lr):
    """What is kept is the network before training: its mask can be used again, and its report says why."""
    out, kept = tmp_path / "a" / "out", tmp_path / "a" / "out-diverged"
    wild = recipe("torch", train={"epochs": 1, "lr": lr})
    with pytest.raises(
        Diverged, match=rf"is (nan|inf) in epoch 1, step \d+ of \d+; .*{kept} holds the pruned"
    ):
        run(wild, out)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out-diverged"]
    assert files(kept) == FILES - {"figures/training.png"}
    report, calm = Report.read(kept), tmp_path / "calm"
    run(recipe("torch"), calm)
    assert [m["moment"] for m in report.facts["signal"]] == MOMENTS
    assert (report.failed[-1]["name"], report.test_accuracy) == ("finite_training", None)
    assert "finite_training" in (kept / "README.md").read_text()
    mask = load(kept, into=mlp([64, 32, 32, 10])).mask
    assert mask == load(calm, into=mlp([64, 32, 32, 10])).mask
    state = load_file(kept / "model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    with pytest.raises(Diverged):  # a second one takes its place
        run(wild, out)


@pytest.mark.slow
def test_an_earlier_result_survives_a_diverged_training(tmp_path):
    run(recipe("torch"), tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(Diverged):
        run(recipe("torch", train={"epochs": 1, "lr": 1e18}), tmp_path / "out", force=True)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_a_dense_baseline_that_diverges_costs_no_sparse_network(tmp_path, monkeypatch):
    inner = pipeline.fit

    def diverging(view, mask, *arguments, **options):
        if mask is None:
            raise Diverged("training: the loss is nan in epoch 1")
        return inner(view, mask, *arguments, **options)

    monkeypatch.setattr(pipeline, "fit", diverging)
    report = run(recipe("torch"), tmp_path / "out")
    assert report.dense_test_accuracy is None
    lost = report.failed[-1]
    assert (lost["name"], lost["remedy"]) == ("dense_baseline", "training: the loss is nan in epoch 1")


@pytest.mark.parametrize("finished", ["torch"], indirect=True)
def test_a_folder_is_replaced_only_when_the_new_one_is_whole(finished, tmp_path):
    library, folder, _ = finished
    there, before = files(folder), (folder / "model.safetensors").read_bytes()
    with pytest.raises(FolderExists):
        run(recipe(library), folder)
    with pytest.raises(FindingFailed):
        run(
            recipe(library, verify={"mean_jsv": {"low": 99, "required": True, "high": 100}}),
            folder,
            force=True,
        )
    assert files(folder) == there
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_config_that_makes_another_network_is_found_out(tmp_path, monkeypatch):
    """The tensors fit, the activation does not: only the outputs can tell."""
    adapter = adapters.get("timm")
    inner = adapter.rebuild

    def other(folder: Path) -> nn.Module:
        model = copy.deepcopy(inner(folder))
        for module in model.modules():
            for name, child in module.named_children():
                if isinstance(child, nn.ReLU):
                    setattr(module, name, nn.Tanh())
        return model

    monkeypatch.setattr(adapter, "rebuild", other)
    with pytest.raises(BadInput, match=r"makes another network: \S+ is a Tanh, in the model a ReLU"):
        run(recipe(), tmp_path / "other")
    assert not list(tmp_path.iterdir())


def test_a_costly_measurement_is_taken_at_fewer_examples_and_says_so(tmp_path):
    costly = {"measure": {"max_seconds": 1e-4}, "isometry": None, "train": {"epochs": 0}, "baselines": []}
    report = run(recipe("transformers", **costly), tmp_path / "run")
    methods = {moment["method"] for moment in report.facts["signal"]}
    assert len(methods) == 1
    assert "1 of 8 examples: all would take" in methods.pop()
    assert "measure.max_seconds=0.0001" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.slow
def test_a_fresh_classifier_that_nothing_trained_is_not_evaluated(tmp_path, capsys):
    """Its accuracy is that of chance; a network that was trained before is evaluated without training too."""
    run(recipe("transformers", baselines=[]), tmp_path / "trained")
    report = run(recipe("transformers", train={"epochs": 0}, baselines=[]), tmp_path / "fresh")
    assert report.test_accuracy is None
    assert report.evaluation_skipped == "the classifier is fresh and nothing was trained"
    assert (
        "accuracy was not measured: the classifier is fresh" in (tmp_path / "fresh" / "README.md").read_text()
    )
    model = {"ref": str(tmp_path / "trained"), "pretrained": True}
    again = run(
        recipe("transformers", model=model, train={"epochs": 0}, baselines=[], prune={"sparsity": 0}),
        tmp_path / "again",
    )
    assert again.test_accuracy == pytest.approx(Report.read(tmp_path / "trained").test_accuracy)
    assert not again.evaluation_skipped
