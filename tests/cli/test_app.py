"""The command line: exit codes, one clear line for bad input, one document for --json, a light --help."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from rich.console import Console
from timm.models._hub import save_for_hf

import sigprune
from sigprune import __version__
from sigprune.base.progress import say
from sigprune.cli.app import main
from sigprune.cli.progress import LineProgress, TerminalProgress, watch
from sigprune.families.scores import scores
from sigprune.models.opening import open_model
from sigprune.recipe.recipe import load_recipe, parse_recipe
from tests.support.console import progress, without_progress
from tests.support.sharing import shared

# the package under test, wherever a command runs and whether or not it is installed
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(sigprune.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
MOMENTS = ("as opened", "after init", "after pruning", "after isometry")

SMALL = [
    "--set",
    "train.epochs=1",
    "--set",
    "isometry.steps=20",
    "--set",
    "baselines=[]",
    "--set",
    "data.size=16",
]

QUICK = ["--set", "data.source={name: noise, examples: 40}", "--set", "prune.batches=1", "-q"]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, without_progress(err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quikstart"], "unknown recipe 'quikstart'; did you mean quickstart?"),
        (["run", "none.yaml"], "none.yaml: expected a recipe file, got no such file"),
        (
            ["run", "quickstart", "--set", "prune.sparsty=0.9"],
            "prune.sparsty: unknown key; did you mean sparsity?",
        ),
        (["run", "quickstart", "--set", "prune.sparsity"], "prune.sparsity: expected path=value"),
        (["validate", "quickstart", "--set", "prune.score=snipp"], "prune.score: unknown score 'snipp'"),
        (["prune", "timm:test_resnet", "--sparsity", "1"], "prune.sparsity: expected the fraction removed"),
        (
            ["prune", "timm:test_resnet", "--score", "snp"],
            "prune.score: unknown score 'snp'; did you mean snip or snip_it?",
        ),
        (["list", "scorse"], "unknown family 'scorse'; did you mean scores?"),
        (["inspect", "no/such/folder"], "no/such/folder: no such folder"),
        (["inspect", "."], ".: it holds neither model.sparse.safetensors nor"),
        (["push", "nothing", "user/repo"], "nothing: no such folder"),
        (["push", ".", "user/repo", "--dry-run"], ".: it holds neither model.sparse.safetensors nor"),
        (["push", ".", "user/repo", "--no-dense", "--no-sparse"], "a push without dense and without packed"),
        (
            ["pull", "timm:resnet18"],
            "timm:resnet18: expected a repository user/repo[@revision]\n",
        ),
        (["convert", "nothing/here/x", "out"], "'nothing/here/x' is no model reference; expected"),
        (["convert", ".", "out"], ".: it has no config.json"),
        (["convert", ".", "out", "--max-shard", "inf"], "--max-shard: expected a number of GB, got inf"),
        (["convert", "~nosuchuser/x", "out"], "~nosuchuser/x: there is no such folder"),
        (["inspect", "~nosuchuser/x"], "~nosuchuser/x: no such folder"),
        (["inspect", "x" * 5000], "xxxxx"),
        (["push", "~nosuchuser/x", "user/repo"], "~nosuchuser/x: no such folder"),
        (["show", "~nosuchuser/x"], "~nosuchuser/x: there is no such folder"),
        (["convert", ".", "out", "--to", "zip"], "Invalid value for '--to': 'zip' is not one of 'packed', "),
        (["prune", ".", "--by-shard", "--epochs", "3"], "--by-shard prunes files and runs no network: leave"),
        (["prune", ".", "--by-shard", "--score", "snip"], "score 'snip': a checkpoint pruned file by file"),
        (
            ["prune", ".", "--by-shard", "--force", "--set", "prune.schedule=cubic"],
            "--by-shard prunes files and runs no network: leave out prune.schedule=cubic (it takes ",
        ),
        (["prune", ".", "--by-shard", "--set", "prune.exclude=[head"], "the value of prune.exclude, line 1"),
        (["prune", ".", "--by-shard", "--set", "save.codec=zip"], "save.codec: unknown codec 'zip'"),
        (["show", "timm:test_resnot"], "unknown timm model 'test_resnot'; did you mean test_resnet"),
        (["show", "timm:vit_tiny"], "unknown timm model 'vit_tiny'; did you mean vit_tiny_patch16_224 or "),
        (["show", "tim:test_resnet"], "unknown library 'tim'; did you mean timm?"),
        (
            ["spectrum", "timm:test_resnet", "--init", "kaimin"],
            "init.method: unknown init 'kaimin'; did you mean kaiming?",
        ),
        (["layers", "timm:test_resnet", "--init", "kaimin"], "init.method: unknown init 'kaimin'"),
        (["layers", "timm:test_vit", "--size", "33"], "test_vit does not take images of 33 x 33: "),
        (["spectrum", "timm:test_resnet", "--data", "digit"], "data.source: unknown data set 'digit'"),
        (["spectrum", "timm:test_resnet", "--examples", "0"], "measure.examples: expected a value greater"),
        (
            ["spectrum", "timm:test_resnet", "--max-memory", "0"],
            "measure.max_memory_gib: expected a value greater",
        ),
        (["shwo"], "No such command 'shwo'"),
        (["run", "quickstart", "--frce"], "No such option"),
        (["run"], "Missing argument 'RECIPE'"),
    ],
)
def test_bad_input_is_one_line_on_standard_error_and_exit_code_2(
    capsys, monkeypatch, tmp_path, arguments, message
):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback_wherever_it_stands(capsys):
    for arguments in (["--debug", "list", "nope"], ["list", "nope", "--debug"]):
        code, _, err = call(capsys, *arguments)
        assert code == 2
        assert "Traceback" in err
        assert err.splitlines()[-1].startswith("error: unknown family 'nope'")


def test_help_and_version(capsys):
    assert call(capsys, "--version") == (0, f"sigprune {__version__}\n", "")
    for arguments in ([], ["--help"]):
        code, out, _ = call(capsys, *arguments)
        assert code == 0
        assert all(
            command in out
            for command in ("run", "prune", "show", "spectrum", "layers", "list", "inspect", "validate")
        )


def test_light_commands_import_no_heavy_library():
    commands = [
        ["--help"], ["run", "--help"], ["--version"], ["list"], ["list", "scores"], ["list", "datasets"],
        ["list", "recipes", "--json"], ["validate", "quickstart"],
        ["run", "quickstart", "--set", "prune.sparsty=1"], ["prune", "timm:test_resnet", "--score", "snp"],
    ]  # fmt: skip
    code = """
import json, sys
from sigprune.cli.app import main
for arguments in json.loads(sys.argv[1]):
    main(arguments)
    heavy = {"torch", "timm", "transformers", "matplotlib", "sklearn", "accelerate"} & set(sys.modules)
    if heavy:
        sys.exit(f"{arguments} imported {heavy}")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr
    assert all(
        word in done.stdout for word in ("Usage: sigprune", __version__, "snip", "quickstart", "digits")
    )
    assert done.stderr.count("error: ") == 2


def test_python_dash_m_exits_with_the_code():
    for arguments, code in ((["list"], 0), (["list", "nope"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "sigprune", *arguments],
            env=ENVIRONMENT,
            capture_output=True,
            check=False,
            timeout=3600,
        )
        assert done.returncode == code


def test_validate_prints_a_recipe_that_is_the_same_recipe(capsys, tmp_path):
    code, out, _ = call(capsys, "validate", "quickstart", "--set", "prune.sparsity=0.95")
    assert code == 0
    path = tmp_path / "copy.yaml"
    path.write_text(out)
    assert load_recipe(path).resolved() == load_recipe("quickstart", ["prune.sparsity=0.95"]).resolved()
    code, out, _ = call(capsys, "validate", str(path), "--json")
    assert json.loads(out)["digest"] == load_recipe(path).digest


def test_list_shows_families_members_options_and_recipes(capsys):
    overview = json.loads(call(capsys, "list", "--json")[1])
    assert {"scores", "inits", "adapters"} <= {row["family"] for row in overview}
    for family in (row["family"] for row in overview):
        members = json.loads(call(capsys, "list", family, "--json")[1])
        assert all(row["summary"].endswith((".", "]")) for row in members), family
    rows = {row["name"]: row for row in json.loads(call(capsys, "list", "schedules", "--json")[1])}
    assert rows["exponential"]["options"] == ["rounds: int >= 1 = 100"]
    assert "quickstart" in {row["name"] for row in json.loads(call(capsys, "list", "recipes", "--json")[1])}
    found = json.loads(call(capsys, "list", "scores", "s*", "--json")[1])
    assert {row["name"] for row in found} >= {"snip", "synflow"}
    assert all(row["name"].startswith("s") for row in found)


def test_tables_are_plain_text_in_a_pipe(capsys):
    _, out, _ = call(capsys, "list", "scores")
    assert "\x1b" not in out
    assert all(line == line.rstrip() for line in out.splitlines())
    assert len([line for line in out.splitlines() if line.startswith("snip ")]) == 1


@pytest.mark.slow
def test_shipped_recipes_run_by_name_from_a_wheel(tmp_path):
    source, site = Path(sigprune.__file__).parents[1], tmp_path / "site"
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", "dist"]
    subprocess.run([*build, str(source)], cwd=tmp_path, check=True, capture_output=True, timeout=3600)
    (wheel,) = (tmp_path / "dist").iterdir()
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
    code = "import sigprune.cli.app; print(sigprune.__file__); sigprune.cli.app.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "quickstart", *SMALL, *QUICK],
        cwd=tmp_path, env={**ENVIRONMENT, "PYTHONPATH": str(site)},
        capture_output=True, text=True, check=False, timeout=3600,
    )  # fmt: skip
    assert done.stdout.startswith(str(site)), done.stderr
    assert "written to runs/quickstart-" in done.stdout


def test_the_defaults_in_the_help_are_those_of_recipes(capsys):
    plan = parse_recipe({"model": {"ref": "timm:test_resnet"}})
    text = " ".join(call(capsys, "prune", "--help")[1].replace("│", " ").split())
    steps = (plan.prune.score, plan.prune.objective, plan.init.method, plan.isometry)
    assert "how much each weight keeps (what fits the score)" in text
    for default in (*(step.name for step in steps), plan.data.source.name, str(plan.train.epochs)):
        assert f"({default})" in text, default


def test_nothing_found_is_an_error(capsys):
    code, _, err = call(capsys, "list", "scores", "x*")
    assert (code, err) == (2, f"error: none of {len(scores.names())} scores matches 'x*'\n")


def test_a_run_can_be_repeated_from_its_folder(finished, capsys):
    (folder,) = (finished[0] / "runs").iterdir()
    again = json.loads(call(capsys, "validate", str(folder), "--json")[1])
    assert again["digest"] == json.loads((folder / "report.json").read_text())["digest"]


def test_show_looks_at_a_folder_as_it_is(finished, capsys):
    (folder,) = (finished[0] / "runs").iterdir()
    shown = (call(capsys, "show", str(folder), *more, "--json")[1] for more in ([], ["--fresh"]))
    own, fresh = (json.loads(text) for text in shown)
    assert not any(gate["closed"] for gate in own["gates"])
    assert all(gate["closed"] for gate in fresh["gates"])


def test_list_models_takes_a_pattern(capsys):
    names = [
        row["reference"] for row in json.loads(call(capsys, "list", "models", "test_resn*", "--json")[1])
    ]
    assert "timm:test_resnet" in names
    assert all("test_resn" in name for name in names)


def test_show_counts_every_parameter_once(capsys):
    code, out, _ = call(capsys, "show", "timm:test_resnet", "--set", "model.args.num_classes=10", "--json")
    facts = json.loads(out)
    assert code == 0
    assert sum(row["share"] for row in facts["weights"]) < 1
    assert facts["prunable"] == sum(row["parameters"] for row in facts["weights"])
    assert facts["weights"][-1]["shape"] == [10, 96]
    assert all(gate["closed"] for gate in facts["gates"])
    assert set(facts["skipped"]) >= {"gate", "norm scale"}
    code, out, _ = call(capsys, "show", "timm:test_resnet", "--set", "model.args.num_classes=10")
    assert f"{facts['parameters']:,} parameters" in out
    lines = out.splitlines()
    stage = next(i for i, line in enumerate(lines) if line.startswith("layer1.0 "))
    assert lines[stage + 1].startswith("├─ conv1.weight "), "weights stand below their stage"
    row = next(r for r in facts["weights"] if r["name"] == "layer1.0.conv1.weight")
    assert lines[stage + 1].split()[2:] == ["conv", "x".join(map(str, row["shape"])), "1",
        f"{row['parameters']:,}", f"{row['share']:.1%}"]  # fmt: skip
    inside = [r["parameters"] for r in facts["weights"] if r["stage"] == "layer1.0"]
    assert lines[stage].split()[2] == f"{sum(inside):,}"
    assert "10x96" in out
    assert f"gates: {len(facts['gates'])}, closed: {len(facts['gates'])}" in out


def test_layers_prints_a_tree_of_matrices_and_maps(capsys):
    size = ("--size", "16", "--init", "orthogonal", "--set", "init.method.gain=1.5")
    arguments = ("layers", "timm:test_resnet", *size)
    facts = json.loads(call(capsys, *arguments, "--json")[1])
    assert facts["values"] == "orthogonal"
    for row in facts["layers"]:
        assert row["gain"] == 1.5
        assert row["matrix"]["epsilon"] < 1e-6, "compared with the initialiser's own gain"
        assert (row["operator"] is None) is (row["role"] == "head")
    code, out, _ = call(capsys, *arguments)
    lines = out.splitlines()
    stage = next(i for i, line in enumerate(lines) if line.startswith("layer1.0"))
    assert code == 0
    assert lines[stage + 1].split()[:6] == ["├─", "conv1.weight", "32x32x3x3", "1", "1.5", "1.5"]
    assert "largest ε of matrices: " in out
    _, out, _ = call(capsys, *arguments, "--operator", "none")
    assert "map" not in out
    opened = json.loads(call(capsys, "layers", "timm:test_resnet", "--operator", "none", "--json")[1])
    assert opened["values"] == "as opened"
    assert opened["layers"][0]["matrix"]["epsilon"] > 0.1


def test_show_does_not_make_what_would_not_fit(capsys):
    """A type of 6.6 billion parameters is looked at without values."""
    facts = json.loads(call(capsys, "show", "transformers:llama", "--json")[1])
    assert (facts["parameters"], facts["sketched"]) == (6_607_351_808, True)
    assert facts["prunable"] == sum(row["parameters"] for row in facts["weights"] if row["prunable"])
    assert not json.loads(call(capsys, "show", "timm:test_resnet", "--json")[1])["sketched"]


def test_spectrum_says_what_it_wrote(capsys, tmp_path):
    args = "model.args={in_features: 64, out_features: 10}"
    words = [
        "spectrum",
        "torch:torch.nn.Linear",
        "--set",
        args,
        "--examples",
        "2",
        "--out",
        str(tmp_path / "x"),
    ]
    code, out, _ = call(capsys, *words)
    said = (
        f"written to {tmp_path / 'x'}: {', '.join(sorted(p.name for p in (tmp_path / 'x').iterdir())[::-1])}"
    )
    assert (code, out.splitlines()[-1]) == (0, said)
    code, out, err = call(capsys, *words, "--json")
    assert json.loads(out)[0]["moment"] == "as opened"
    assert said in err.splitlines()


@pytest.mark.slow
def test_spectrum_compares_any_value_of_the_recipe(capsys):
    start = ["spectrum", "timm:test_resnet", "--examples", "2", "--size", "32", "--json"]
    code, out, _ = call(capsys, *start, "--compare", "init.gates=open,keep")
    opened, first, second = json.loads(out)
    assert code == 0
    assert [m["moment"] for m in (first, second)] == ["init.gates=open", "init.gates=keep"]
    assert first["summary"]["mean"] > second["summary"]["mean"]
    steps = "init={name: orthogonal, gain: 1.5}, lecun"
    gained = json.loads(call(capsys, *start, "--compare", steps, "--set", "init.calibrate=1")[1])
    assert [m["moment"] for m in gained[1:]] == ["after {name: orthogonal, gain: 1.5}", "after lecun"]
    assert all(m["summary"]["mean_square"] == pytest.approx(1, abs=0.3) for m in gained[1:])
    assert gained[0] == opened
    for bad, message in [
        ("init", "expected PATH=A,B"),
        ("prune.sparsity=0.5,0.9", "it changes nothing before pruning"),
        ("init.gats=open", "init.gats: unknown key; did you mean gates?"),
    ]:
        code, _, err = call(capsys, *start, "--compare", bad)
        assert code == 2
        assert message in err


def test_spectrum_compares_initialisers(capsys):
    arguments = [
        "spectrum",
        "timm:test_resnet",
        "--init",
        "lecun, orthogonal",
        "--examples",
        "2",
        "--set",
        "data.size=32",
    ]
    code, out, err = call(capsys, *arguments, "--json")
    moments = json.loads(out)
    assert code == 0
    weak = [m for m in moments if not 0.1 <= m["summary"]["mean"] <= 10]
    for m, line in zip(weak, err.splitlines(), strict=True):
        assert line.startswith(f"warning: mean_jsv is {m['summary']['mean']:.4g} ({m['moment']}), expected")
        assert line.split("; at ")[1].split()[0] in {row["stage"] for row in m["profile"]}
    assert [m["moment"] for m in moments] == ["as opened", "after lecun", "after orthogonal"]
    assert all(m["summary"]["count"] == 20 == sum(m["histogram"]["counts"]) for m in moments)
    code, out, _ = call(capsys, *arguments)
    lines = out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == [m["moment"] for m in moments]
    assert all(line.endswith(tuple("▁▂▃▄▅▆▇█")) for line in lines[2:])
    estimate = [*arguments, "--max-memory", "0.5", "--set", "measure.method=moments"]
    assert "estimated by moments from 10 probes" in call(capsys, *estimate)[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run in a folder of its own: (working folder, what it printed)."""

    def make(place: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "sigprune", "run", "quickstart", *SMALL],
            cwd=place, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=3600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (place / "printed").write_text(json.dumps([done.stdout, done.stderr]))

    place = shared(tmp_path_factory, "quickstart", make)
    stdout, stderr = json.loads((place / "printed").read_text())
    (place / "printed").unlink()
    return place, subprocess.CompletedProcess("sigprune", 0, stdout, stderr)


def test_run_says_what_came_out_and_where_it_is(finished):
    place, done = finished
    (folder,) = (place / "runs").iterdir()
    recipe = load_recipe("quickstart", SMALL[1::2])
    assert folder.name == f"quickstart-{recipe.digest[:8]}"
    report = json.loads((folder / "report.json").read_text())
    assert report["digest"] == recipe.digest
    for moment in ("as opened", "after init", "after pruning", "after isometry"):
        assert sum(line.startswith(moment) for line in done.stdout.splitlines()) == 1
    assert f"{report['mask']['kept']:,} of {report['mask']['total']:,} entries kept" in done.stdout
    assert f"sparse {report['evaluation']['test_accuracy']:.2%}" in done.stdout
    assert "dense" not in done.stdout  # not trained here
    failed = [f["name"] for f in report["findings"] if not f["ok"]]
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("warning:")] == failed
    assert done.stdout.endswith(f"written to {folder.relative_to(place)}\n")
    told = progress(done.stderr)
    assert [line for line in told if ":" not in line] == [
        "open", "measure as opened", "initialise", "measure after init", "prune", "measure after pruning",
        "isometry", "measure after isometry", "follow paths", "save before training", "train sparse", "save",
        "load back",
    ]  # fmt: skip
    (epoch,) = (line for line in told if line.startswith("train sparse: epoch"))
    row = report["training"]["epochs"][0]
    scored = f"test loss {row['test_loss']:.4g}, test accuracy {row['test_accuracy']:.2%}"
    assert epoch == f"train sparse: epoch 1/1: loss {row['train_loss']:.4g}, {scored}"
    assert without_progress(done.stderr) == ""
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_folder_is_replaced_only_on_request(finished, capsys, monkeypatch):
    place, _ = finished
    monkeypatch.chdir(place)
    (folder,) = (place / "runs").iterdir()
    before = (folder / "model.safetensors").read_bytes()
    code, out, err = call(capsys, "run", "quickstart", *SMALL)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.endswith("(--force replaces it)\n")
    code, out, _ = call(capsys, "run", "quickstart", *SMALL, "--force", "--json", "--quiet")
    assert code == 0
    document = json.loads(out)
    assert (document["schema"], document["folder"]) == (1, str(folder.relative_to(place)))
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_folder_of_somebody_else_is_never_replaced(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("mine")
    for out in ("thesis", ".", "thesis/thesis.txt", "/"):
        code, _, err = call(capsys, "run", "quickstart", *SMALL, "--out", out, "--force")
        assert code == 2
        assert err.count("\n") == 1
        assert "--force" not in err
    assert (tmp_path / "thesis" / "thesis.txt").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["thesis"]


def test_inspect_reads_the_folder_back(finished, capsys):
    (folder,) = (finished[0] / "runs").iterdir()
    report = json.loads((folder / "report.json").read_text())
    facts = json.loads(call(capsys, "inspect", str(folder), "--json")[1])
    assert (facts["kept"], facts["total"]) == (report["mask"]["kept"], report["mask"]["total"])
    code, out, _ = call(capsys, "inspect", str(folder))
    assert code == 0
    assert "model.sparse.safetensors" in out
    assert f"{facts['kept']:,} of {facts['total']:,} entries kept" in out


def test_prune_is_the_pipeline_without_a_recipe_file(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(
        capsys, "prune", "timm:test_resnet", "--sparsity", "0.8", "--score", "magnitude", "--init", "lecun",
        "--allocation", "erk", "--isometry", "none", "--size", "16", "--epochs", "0", "--seed", "3",
        "--set", "baselines=[]", "--out", "here", "--json",
    )  # fmt: skip
    report = json.loads(out)
    assert code == 0
    recipe = report["recipe"]
    assert (recipe["name"], recipe["seed"], recipe["isometry"]) == ("test_resnet", 3, None)
    assert [recipe["prune"][key]["name"] for key in ("score", "allocation")] == ["magnitude", "erk"]
    assert recipe["init"]["method"] == {"name": "lecun", "gain": 1.0}
    assert report["mask"]["kept"] == round(report["mask"]["total"] * 0.2)
    assert load_recipe(tmp_path / "here" / "recipe.yaml").digest == report["digest"]


def test_a_required_finding_that_fails_gives_exit_code_1_and_no_folder(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    required = "verify.mean_jsv={low: 100, high: 200, required: true}"
    code, out, err = call(capsys, "run", "quickstart", *SMALL, "--set", required)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: FAILED: mean_jsv")
    assert "; at layer" in err.splitlines()[-1]
    assert [line.partition("  ")[0] for line in err.splitlines()[2:6]] == list(MOMENTS)
    assert not list(tmp_path.iterdir())


def test_progress_is_a_line_now_and_then_in_a_pipe(capsys):
    seconds = iter([0, 1, 5, 31, 40, 62.25])
    lines = LineProgress(lambda: next(seconds))
    with lines.step("train\x1b[2J") as on_progress:  # at 1 s
        on_progress(1, 9)  # at 5 s: too early
        on_progress(2, 9)  # at 31 s, written at 40 s
        lines.say("epoch 1/2: loss 0.5")
    train = r"train\u001b[2J"
    assert capsys.readouterr().err.splitlines() == [
        f"[    1.0 s] {train}", f"[   40.0 s] {train}: 2/9", f"[   62.2 s] {train}: epoch 1/2: loss 0.5",
    ]  # fmt: skip
    assert isinstance(watch(quiet=False), LineProgress)  # pytest's standard error is no terminal
    silent = watch(quiet=True)
    with silent.step("train"):
        say(silent, "epoch 1/2")
    assert capsys.readouterr().err == ""


def test_progress_is_complete_on_a_terminal():
    screen = io.StringIO()
    progress = TerminalProgress(Console(file=screen, force_terminal=True, width=100))
    with progress.step("train") as on_progress:
        on_progress(4, 4)
        progress.say("epoch 1/1: loss 0.5")
    assert "train" in screen.getvalue()
    assert "epoch 1/1: loss 0.5" in screen.getvalue()
    assert "4/4" in screen.getvalue()
    assert "✓" in screen.getvalue()
    screen.truncate(0)
    with pytest.raises(KeyboardInterrupt), progress.step("train"):
        raise KeyboardInterrupt
    assert "✓" not in screen.getvalue()


def test_checkpoints_are_converted_inspected_and_listed_for_a_push(finished, capsys, monkeypatch, tmp_path):
    place, _ = finished
    monkeypatch.chdir(tmp_path)
    (folder,) = (place / "runs").iterdir()
    code, out, _ = call(capsys, "convert", str(folder), "compact", "--codec", "compact", "--json")
    assert code == 0
    facts = json.loads(out)
    report = json.loads((folder / "report.json").read_text())["mask"]
    assert [facts["kept"], facts["total"]] == [report["kept"], report["total"]]
    assert facts["left_behind"] == ["README.md"]
    files = facts["files"]
    assert files["model.sparse.safetensors"] == Path("compact/model.sparse.safetensors").stat().st_size
    code, out, _ = call(capsys, "inspect", "compact", "--verify", "--json")
    assert code == 0
    assert json.loads(out)["codec"] == "compact"
    verified = json.loads(out)["verified"]["packed"]
    assert verified > 10
    code, out, _ = call(capsys, "inspect", "compact", "--verify")
    assert f"\nverified, every bit: {verified} packed tensors\n" in out
    code, out, _ = call(capsys, "push", "compact", "user/repo", "--no-dense", "--dry-run")
    assert code == 0
    assert "would be sent to user/repo" in out
    code, out, _ = call(capsys, "push", str(folder), "user/repo", "--dry-run", "--json")
    assert {"README.md", "config.json", "model.safetensors", "report.json"} <= json.loads(out)["files"].keys()
    code, out, err = call(capsys, "convert", str(folder), "compact")
    assert (code, out) == (2, "")
    assert err.endswith("is not empty; choose another (--force replaces it)\n")
    code, out, _ = call(capsys, "convert", "compact", "compact2")
    code, out, _ = call(capsys, "convert", str(folder), "compact", "--force")
    assert code == 0
    counted = f"{report['kept']:,} of {report['total']:,} entries kept in {facts['tensors']} tensors"
    assert out.endswith(f"not copied: README.md\n\n{counted}, sparsity 0.9\n")
    assert json.loads(call(capsys, "inspect", "compact", "--json")[1])["codec"] == "bitmask"
    assert json.loads(call(capsys, "inspect", "compact2", "--json")[1])["codec"] == "compact"


def test_pruning_by_files_takes_scope_and_codec_and_warns_of_what_it_empties(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model = open_model("timm:test_vit")
    with torch.no_grad():
        model.blocks[0].attn.proj.weight.mul_(1e-6)
    save_for_hf(model, tmp_path / "x", safe_serialization=True)
    (tmp_path / "x" / "card.md").write_text("card")
    words = ["prune", "x", "--by-shard", "--sparsity", "0.5", "--allocation", "pooled", "--out", "y"]
    code, out, _ = call(capsys, *words)
    assert code == 0
    emptied = "blocks.0.attn.proj.weight"
    remedy = f"--set 'prune.exclude=[{emptied}]' leaves it dense"
    warned = f"warning: {emptied} keeps 0 of 4,096 entries; {remedy}\n"
    assert out.endswith(f"{warned}not copied: card.md\n")
    assert f"warning: collapsed_weights is 1 ({emptied}), expected 0; keep some" in out
    code, out, err = call(capsys, *words)
    assert (code, out) == (2, "")
    assert err.endswith("choose another (--force replaces it)\n")
    scope = ["--set", f"prune.exclude=[{emptied}, head]", "--set", "prune.include=['blocks.0.*', head]"]
    code, out, _ = call(capsys, *words, "--force", "--json", *scope, "--set", "save.codec=compact")
    assert code == 0
    facts = json.loads(out)
    assert facts["warnings"] == []
    assert facts["left_behind"] == ["card.md"]
    assert facts["codec"] == "compact"
    layers = {row["name"] for row in facts["layers"]}
    assert emptied not in layers
    assert {name.split(".")[1] for name in layers} == {"0"}
    assert facts["provenance"]["exclude"] == [emptied, "head"]
    code, _, err = call(capsys, "prune", "x", "--by-shard", "--force", "--out", ".")
    assert (code, err.count("\n")) == (2, 1)
    assert "would delete x" in err
