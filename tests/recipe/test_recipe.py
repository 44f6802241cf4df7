"""Recipes are a closed world: what is not known is refused, what is left out is resolved."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from sigprune.base.errors import BadInput, RecipeError, UnknownName
from sigprune.base.registry import MemberSpec
from sigprune.recipe.recipe import FINDINGS, Recipe, load_recipe, override, parse_recipe, shipped
from sigprune.recipe.sections import Model, Train
from sigprune.recipe.yaml_io import DEEPEST, LARGEST, LONGEST, MAX_VALUES, dumps, loads
from sigprune.training.config import TrainConfig

MODEL = {"model": {"ref": "timm:test_resnet"}}
PATHS = [
    "seed", "device", "model.ref", "model.batchnorm", "data.size", "init.gates", "measure.examples",
    "prune.sparsity", "prune.batches", "train.epochs", "train.lr", "train.precision", "verify.mean_jsv.low",
]  # fmt: skip


def parsed(*settings: str) -> Recipe:
    return parse_recipe(override(MODEL, settings))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("modle.ref=x", "modle: unknown key; did you mean model?"),
        ("model.reff=x", "model.reff: unknown key; did you mean ref?"),
        ("data.batchsize=3", "data.batchsize: unknown key; did you mean batch_size"),
        ("init.gate=open", "init.gate: unknown key; did you mean gates?"),
        ("init.head=kep", "init.head: unknown init 'kep'; did you mean keep?"),
        ("init.head=3", "init.head: expected method, keep, a init by name, or a mapping with name"),
        ("init.embedding={name: normal, std: 0}", "init.embedding.normal.std: expected float > 0"),
        ("init.norms=rest", "init.norms"),
        ("measure.exmples=3", "measure.exmples: unknown key; did you mean examples?"),
        ("verify.mean_jvs.low=1", "verify.mean_jvs: unknown finding 'mean_jvs'; did you mean mean_jsv?"),
        ("verify.mean_jsv.lo=1", "verify.mean_jsv.lo: unknown key; did you mean low?"),
        ("prune.sparsty=0.9", "prune.sparsty: unknown key; did you mean sparsity?"),
        ("prune.score=snipp", "prune.score: unknown score 'snipp'; did you mean snip or snip_it?"),
        ("train.epoch=1", "train.epoch: unknown key; did you mean epochs?"),
        ("save.codecs=bitmask", "save.codecs: unknown key; did you mean codec?"),
        ("isometry.step=5", "isometry.lbfgs: unknown option 'step'; did you mean steps?"),
        ("init.method={name: orthogonal, gian: 2}", "init.method.orthogonal: unknown option 'gian'"),
    ],
)
def test_an_unknown_key_names_its_path_and_the_nearest_key(setting: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parsed(setting)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("prune.sparsity=1", "prune.sparsity: expected the fraction removed, 0 <= sparsity < 1, got 1"),
        ("prune.sparsity=-0.1", "prune.sparsity: expected the fraction removed"),
        ("prune.sparsity='0.9'", "prune.sparsity: expected a number, got '0.9' (str)"),
        ("prune.sparsity=true", "prune.sparsity: expected a number, got True (bool)"),
        ("prune.sparsity=.nan", "prune.sparsity: expected a number"),
        ("prune.batches=some", "prune.batches: expected an integer >= 1 or 'all', got 'some' (str)"),
        ("prune.batches=0", "prune.batches: expected an integer >= 1"),
        ("prune.include=conv", "prune.include: expected a list, got 'conv' (str)"),
        ("prune.score=3", "prune.score: expected a score by name"),
        ("prune.schedule.rounds=3", "prune.schedule.oneshot: it takes no options"),
        ("init.method.gain=two", "init.method.orthogonal.gain: expected float > 0, got 'two' (str)"),
        ("seed=1.5", "seed: expected an integer, got 1.5 (float)"),
        ("seed=-1", "seed: expected a value greater than or equal to 0, got -1"),
        ("device=gpu", "device: expected 'auto', 'cpu' or 'cuda', got 'gpu' (str)"),
        ("model.ref=null", "model.ref: expected a string, got null"),
        ("train=null", "train: expected a mapping, got null"),
        ("train=[1]", "train: expected a mapping, got [1] (list)"),
        ("train.lr=-1", "train.lr: expected above 0, got -1"),
        ("train.warmup_epochs=99", "train.warmup_epochs: expected in [0, 10], got 99"),
        ("train.milestones=[a]", "train.milestones.0: expected a number, got 'a' (str)"),
        ("verify.mean_jsv={low: 3, high: 1}", "verify.mean_jsv: expected low <= high"),
        ("verify.mean_jsv=3", "verify.mean_jsv: expected a mapping, got 3 (int)"),
        ("baselines=[dens]", "baselines.0: expected 'dense', got 'dens' (str)"),
        ("name=a/b", "name: string should match pattern"),
    ],
)
def test_a_wrong_value_names_its_path_what_was_expected_and_what_was_got(setting: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parsed(setting)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_several_problems_are_all_named_and_unknown_keys_come_first() -> None:
    both = r"^modle: unknown key; did you mean model\?; also model: expected a value, got none$"
    with pytest.raises(RecipeError, match=both):
        parse_recipe({"modle": {"ref": "x"}})
    with pytest.raises(RecipeError) as caught:
        parsed("data.batch_size=0", "seed=-1", "train.lr=-1", "train.gamma=0", "prune.score=snipp")
    assert [problem.partition(":")[0] for problem in str(caught.value).split("; also ")] == [
        "seed", "data.batch_size", "prune.score", "train.lr", "train.gamma",
    ]  # fmt: skip
    wrong = (
        r"^seed\.\.=1: expected path=value.*; also =3: .*; also seed\.x: seed holds no keys, it is 1 \(int\)"
    )
    with pytest.raises(RecipeError, match=wrong):
        override({"seed": 1}, ["seed..=1", "=3", "seed.x=1"])
    with pytest.raises(RecipeError, match=r"; also .*; and 4 more errors$") as caught:
        parse_recipe({"model": {"ref": "x"}, **{f"k{i}": 1 for i in range(12)}})
    assert str(caught.value).count("; also ") == 7
    with pytest.raises(RecipeError, match=r"^model: expected a value, got none \(in here\)$"):
        parse_recipe({}, "here")
    with pytest.raises(RecipeError, match="expected a mapping of sections, got"):
        parse_recipe([])  # type: ignore[arg-type]


def test_resolving_is_a_fixed_point_also_through_text_and_json() -> None:
    recipe = parsed("prune.score=synflow", "init.method=null", "verify.mean_jsv.high=null", "train.lr=1e-3")
    resolved = recipe.resolved()
    assert parse_recipe(resolved).resolved() == resolved
    assert parse_recipe(json.loads(json.dumps(resolved))) == recipe
    assert parse_recipe(loads(recipe.to_yaml(), "text")).digest == recipe.digest  # type: ignore[arg-type]


def test_the_digest_knows_the_values_and_not_their_spelling() -> None:
    base = parsed()
    for settings in (
        ["prune.score={name: snip}"],
        ["prune={score: snip, sparsity: 0.90}"],
        ["prune.schedule=oneshot", "init.method={gain: 1, name: orthogonal}"],
        ["train.epochs=10", "seed=0"],
        ["verify.mean_jsv.low=0.1"],
    ):
        assert parsed(*settings).digest == base.digest, settings
    assert parse_recipe(dict(reversed(base.resolved().items()))).digest == base.digest
    assert parsed("model.args={a: 1, b: 2}").digest == parsed("model.args={b: 2, a: 1}").digest


@pytest.mark.parametrize(
    "setting",
    [
        "name=other", "seed=1", "device=cpu", "model.ref=timm:test_vit", "model.args.in_chans=1",
        "data.size=32", "init.method.gain=1.1", "init.gates=keep", "prune.sparsity=0.91", "train.clip=1",
        "prune.batches=all", "isometry=null", "baselines=[]", "verify.mean_jsv.high=11",
        "measure.examples=9", "prune.biases=true",
    ],
)  # fmt: skip
def test_the_digest_changes_with_every_value(setting: str) -> None:
    assert parsed(setting).digest != parsed().digest


def test_comments_and_key_order_in_a_file_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: x\nmodel: {ref: m}\nseed: 3  # three\n")
    (tmp_path / "b.yaml").write_text("# hello\nseed: 3\nmodel:\n  ref: m\nname: x\n")
    assert load_recipe(tmp_path / "a.yaml").digest == load_recipe(tmp_path / "b.yaml").digest


def test_the_name_is_the_file_s_unless_given(tmp_path: Path) -> None:
    (tmp_path / "my run.yaml").write_text("model: {ref: m}\n")
    assert load_recipe(tmp_path / "my run.yaml").name == "my-run"


def test_defaults_depend_on_the_score_the_data_and_pretrained_weights() -> None:
    assert parsed("prune.score=synflow").prune.schedule == MemberSpec("exponential", {"rounds": 100})
    assert parsed("prune.score=snip").prune.schedule == MemberSpec("oneshot")
    assert parsed("data.batch_size=7").prune.batch_size == 7
    assert parsed("data.batch_size=7", "prune.batch_size=5").prune.batch_size == 5
    assert parsed("data.batch_size=7", "prune.batch_size=null").prune.batch_size == 7
    trained = parsed("model.pretrained=true", "init.gates=keep")
    assert (trained.init.method, trained.isometry, trained.init.gates) == (None, None, "keep")
    chosen = parsed("model.pretrained=true", "init.method=orthogonal", "isometry=gradient_descent")
    assert chosen.init.method == MemberSpec("orthogonal", {"gain": 1.0})
    assert chosen.isometry is not None


def test_parts_of_a_network_follow_the_method_unless_said() -> None:
    fresh, kept = parsed().init, parsed("init.method=null").init
    assert (fresh.embedding, fresh.norms) == (MemberSpec("normal", {"std": 0.02}), "reset")
    assert (kept.embedding, kept.norms) == ("keep", "keep")
    assert (fresh.head, fresh.depthwise) == ("method", "method")
    trained = parsed("model.pretrained=true", "init.head=orthogonal", "init.embedding={name: normal}").init
    assert (trained.method, trained.head) == (None, MemberSpec("orthogonal", {"gain": 1.0}))
    assert (trained.embedding, trained.norms) == (MemberSpec("normal", {"std": 0.02}), "keep")
    assert parsed("init.depthwise=delta_orthogonal", "init.norms=keep").digest != parsed().digest


def test_every_finding_has_bounds_and_null_is_no_bound() -> None:
    recipe = parsed("verify.mean_jsv={high: null, required: true}")
    assert tuple(recipe.verify) == FINDINGS
    assert recipe.verify["dead_weights"].required
    bound = recipe.bounds()["mean_jsv"]
    assert (bound.low, bound.high, bound.required) == (0.1, math.inf, True)


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parsed().seed = 3  # type: ignore[misc]


def test_override_leaves_its_argument_alone_and_reads_yaml() -> None:
    data = {"prune": {"score": "snip"}}
    changed = override(data, ["prune.score.x=[1, 1e-3]", "train.precision=no", "a.b.c=", "d=2020-01-01"])
    assert data == {"prune": {"score": "snip"}}
    assert changed["prune"] == {"score": {"name": "snip", "x": [1, 0.001]}}
    assert changed["train"] == {"precision": "no"}
    assert changed["a"] == {"b": {"c": None}}
    assert changed["d"] == "2020-01-01"


@pytest.mark.parametrize("setting", ["prune.sparsity", "=3", "prune..x=3", "seed.x.y=[", "list.x=3"])
def test_a_setting_that_cannot_be_put_in_is_refused(setting: str) -> None:
    with pytest.raises(RecipeError):
        override({"list": [1]}, [setting])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {ref: m}\nseed: 1\nseed: 2\n", r"line 3, column 1: .*the key 'seed' is repeated"),
        ("model:\n  ref: m\n  ref: n\n", r"line 3, column 3: .*repeated"),
        ("model: {ref: m\nseed: 1\n", r"line 2, column \d+: not valid YAML"),
        ("seed: !!int '1:59:59'\n", r"line 1, column 7: .*expected plain data, got the tag tag:yaml"),
        ("model: !!set {ref}\n", r"line 1, column 8: .*expected plain data, got the tag"),
        ("model: &a {args: *a}\n", r"line 1, column 18: .*\*a stands inside what it names"),
        ("model: *b\n", r"line 1, column 8: .*undefined alias"),
        ("model: !!python/object:os.system {}\n", r"line 1, column 8: not valid YAML"),
        ("1: x\n", r"line 1, column 1: .*a key must be text"),
        ("- a\n", r"expected a mapping of sections, got list"),
        ("", r"expected a mapping of sections, got NoneType"),
    ],
)
def test_bad_text_names_the_file_and_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


BOMBS = {
    "aliases": "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)),
    "aliases of mappings": "a0: &a0 {x: 1, y: 1}\n"
    + "".join(f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}\n" for i in range(1, 40)),
    "flow": "model: [" + "1," * MAX_VALUES + "]",
    "block": "model:\n" + "- 1\n" * MAX_VALUES,
    "nested flow": "model: " + "[" * 100_000,
    "nested block": "- " * 100_000,
    "long text": "model: " + "x" * (LONGEST + 1),
    "long key": "? " + "x" * (LONGEST + 1) + "\n: 1",
    "bytes": "#" * (LARGEST + 1),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_would_take_too_long_is_refused_while_it_is_read(tmp_path: Path, bomb: str) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMBS[bomb])
    with pytest.raises(RecipeError, match=r"expected (at most|a recipe of at most) [\d,]+ ") as caught:
        load_recipe(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < len(str(path)) + 200


def test_the_value_of_a_setting_has_the_bounds_of_a_recipe() -> None:
    for text in (BOMBS["aliases"], BOMBS["nested block"], BOMBS["bytes"]):
        with pytest.raises(RecipeError, match=r"^the value of model\.args.*: expected at most"):
            override({}, [f"model.args={text}"])


def test_a_file_is_not_read_beyond_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "sparse.yaml"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(
        RecipeError, match=r"expected a recipe of at most 262,144 bytes, got 1,099,511,627,776"
    ):
        load_recipe(path)


@pytest.mark.parametrize("path", ["a." * 3000 + "b", "x" * 5000, ".".join("a" * (DEEPEST + 1))])
def test_the_path_of_a_setting_is_bounded(path: str) -> None:
    with pytest.raises(
        RecipeError, match=r"expected a path of at most 32 levels and 4,096 characters"
    ) as caught:
        load_recipe("quickstart", [f"{path}=1"])
    assert len(str(caught.value)) < 200


def test_python_data_have_a_bound_too() -> None:
    deep: dict[str, object] = {}
    here = deep
    for _ in range(100_000):
        here["a"] = here = {}
    loop: dict[str, object] = {}
    loop["a"] = loop
    for args in (deep, loop, [loop]):
        for model in ({"ref": "x", "args": args}, {"ref": args}, args):
            with pytest.raises(
                RecipeError, match=r"^expected at most 64 levels of mappings and lists, got more"
            ):
                parse_recipe({"model": model})  # type: ignore[dict-item]


def test_what_is_within_the_bounds_is_read() -> None:
    names = ", ".join(f"layer{i}.weight" for i in range(4000))
    assert len(parsed(f"prune.exclude=[{names}]").prune.exclude) == 4000
    deepest = "{a: " * 30 + "1" + "}" * 30
    assert parsed(f"model.args.x={deepest}").digest
    assert parsed(f"model.args.x={'y' * LONGEST}").digest


def test_aliases_are_copies() -> None:
    data = loads("model: {args: &a {x: [1]}}\nprune: {score: *a}\n", "text")
    changed = override(data, ["model.args.x=2", "model.args.y=3"])  # type: ignore[arg-type]
    assert changed == {"model": {"args": {"x": 2, "y": 3}}, "prune": {"score": {"x": [1]}}}


def test_the_name_is_no_longer_than_a_file_s_may_be(tmp_path: Path) -> None:
    assert parsed(f"name={'x' * 100}").name
    (tmp_path / f"{'y' * 200}.yaml").write_text("model: {ref: x}")
    assert load_recipe(tmp_path / f"{'y' * 200}.yaml").name == "y" * 100
    with pytest.raises(RecipeError, match=r"^name: string should have at most 100 characters, got 'x"):
        parsed(f"name={'x' * 101}")


def test_files_that_are_missing_or_unreadable(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(RecipeError, match="expected a"):
            load_recipe(path)
    with pytest.raises(UnknownName, match="did you mean quickstart"):
        load_recipe("quikstart")


@pytest.mark.parametrize(
    "text", ["no", "1e-3", "1.5", "007", "1:30", "0x1F", "null", "~", "true", "on", ".5", ""]
)
def test_text_survives_writing_and_reading(text: str) -> None:
    assert loads(dumps({"x": text, "y": [text]}), "text") == {"x": text, "y": [text]}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("5E2", 500.0), ("-3", -3), (".5", 0.5), ("no", "no"), ("off", "off"), ("True", True)],
)
def test_plain_scalars_are_read_as_yaml_1_2_does(text: str, value: object) -> None:
    got = loads(text, "text")
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_recipe_is_valid_and_named_after_its_file(name: str) -> None:
    assert load_recipe(name).name == name


@pytest.mark.parametrize("path", PATHS)
def test_no_value_may_be_a_mapping_where_a_scalar_stands(path: str) -> None:
    with pytest.raises(BadInput, match=f"^{path.replace('.', '[.]')}: "):
        parsed(f"{path}={{a: 1}}")


def test_importing_recipes_imports_no_torch() -> None:
    code = (
        "import sys; from sigprune.recipe.recipe import load_recipe; load_recipe('quickstart');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "seed=" + "9" * 5000,
            "the value of seed, line 1, column 1: not valid YAML: expected at most 4,096 ",
        ),
        ("seed=" + "9" * 4000, "seed: "),
        (
            "model.args=" + "[" * 3000,
            "the value of model.args, line 1, column 33: not valid YAML: expected at ",
        ),
        ("data.batch_size=99999999999999999999999", "data.batch_size: expected a value less than or equal"),
        (
            "measure.method={name: exact, at_once: 0}",
            "measure.method.exact.at_once: expected int >= 1",
        ),
        ("isometry={name: gradient_descent, lr: -1}", "isometry.gradient_descent.lr: expected float > 0"),
        ("init.method.gain=0", "init.method.orthogonal.gain: expected float > 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anything_runs(setting: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("quickstart", [setting])
    assert str(caught.value).startswith(message)


def test_options_of_the_schedule_that_a_score_brings_along() -> None:
    recipe = load_recipe("digits_synflow", ["prune.schedule.rounds=3"])
    assert recipe.prune.schedule == MemberSpec("exponential", {"rounds": 3})


def test_no_epochs_need_no_other_warm_up() -> None:
    assert load_recipe("quickstart", ["train.epochs=0"]).train.epochs == 0


def test_sections_may_be_given_as_objects() -> None:
    given = {"ref": "timm:test_resnet", "pretrained": True}
    assert parse_recipe({"model": Model(**given)}).digest == parse_recipe({"model": given}).digest
    assert hash(parse_recipe({"model": given})) == hash(parse_recipe({"model": given}))


def test_the_section_of_training_is_the_training_config():
    """Every field, in the same order and with the same default; those two are said elsewhere in a recipe."""
    fields = [f for f in dataclasses.fields(TrainConfig) if f.name not in {"batch_size", "device"}]
    assert [f.name for f in fields] == list(Train.model_fields)
    assert {f.name: f.default for f in fields} == Train().model_dump()
