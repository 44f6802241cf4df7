"""Trust: somebody's recipe is data; code, files elsewhere and a push need the caller's consent."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path

import pytest

import sigprune.experiment.runner
from sigprune.base.errors import BadInput, NeedsConsent
from sigprune.base.progress import SilentProgress
from sigprune.cli.app import main
from sigprune.experiment.runner import run
from sigprune.experiment.sanity_checks import check
from sigprune.experiment.setup import open_setting
from sigprune.experiment.survey import anatomy, layers_of, spectra_under
from sigprune.recipe.consent import expect_consent, permissions
from sigprune.recipe.recipe import Recipe, load_recipe, parse_recipe

TRAP = """
import pathlib
pathlib.Path(__file__).with_name("SPRUNG").touch()

def make(**given):
    pathlib.Path(__file__).with_name("CALLED").touch()
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a module on the path that leaves a trace, and a folder of somebody's beside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.delitem(sys.modules, "trap_under_test", raising=False)
    for name in ("modules", "theirs", "theirs/inside", "mine", "user/repo"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "modules" / "trap_under_test.py").write_text(TRAP)
    return tmp_path


def write(place: Path, text: str) -> Path:
    path = place / "theirs" / "recipe.yaml"
    path.write_text(text)
    return path


def untouched(place: Path) -> bool:
    traces = [place / "modules" / name for name in ("SPRUNG", "CALLED")]
    return not any(trace.exists() for trace in traces) and not (place / "runs").exists()


HOSTILE = {
    "model.ref": "model: {ref: 'torch:trap_under_test.make'}",
    "a library in front": "model: {ref: 'timm:torch:trap_under_test.make'}",
    "prune.parameters": "model: {ref: 'timm:test_resnet'}\nprune: {parameters: 'torch:trap_under_test.make'}",
    "push.repo": "model: {ref: 'timm:test_resnet'}\npush: {repo: 'somebody/else'}",
    "prune.mask": "model: {ref: 'timm:test_resnet'}\nprune: {mask: mine}",
    "data.source.folder": "model: {ref: m/n}\ndata: {source: {name: fashion_mnist, folder: /usr}}",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_nothing_of_a_hostile_recipe_is_carried_out(
    place: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(place, HOSTILE[what])
    loaded, silent = load_recipe(path), SilentProgress()
    for act in (
        lambda: run(path, place / "out"),
        lambda: run(str(path.parent), place / "out"),
        lambda: run(loaded, place / "out"),
        lambda: check(loaded, silent),
        lambda: anatomy(loaded, silent),
        lambda: spectra_under({"one": loaded}, silent),
        lambda: layers_of(loaded, silent, init=True),
        lambda: open_setting(loaded),
    ):
        with pytest.raises(NeedsConsent, match=f"^{path.parent}.*asks for your consent: .*--trust"):
            act()
    for words in (["run", "theirs"], ["run", str(path)], ["check", "theirs"], ["run", "theirs", "--force"]):
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
    assert main(["validate", "theirs"]) == 0
    assert "# needs --trust: " in capsys.readouterr().out
    assert untouched(place)
    assert "trap_under_test" not in sys.modules
    assert not (place / "out").exists()


SENDS = "sends the result to a/b under your token"
MODEL = "model: {ref: 'timm:test_resnet'}\n"


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("model: {ref: 'torch:a.b', args: {x: 1}}", ["model.ref imports and calls torch:a.b"]),
        ("model: {ref: /etc}", ["model.ref reads /etc"]),
        ("model: {ref: 'timm:/etc'}", ["model.ref reads timm:/etc"]),
        ("model: {ref: 'local-dir:../mine'}", ["model.ref reads local-dir:../mine"]),
        ("model: {ref: 'transformers:local-dir:~/m'}", ["model.ref reads transformers:local-dir:~/m"]),
        ("model: {ref: '~nosuchuser/m'}", ["model.ref reads ~nosuchuser/m"]),
        ("model: {ref: mine}", ["model.ref reads mine"]),
        ("model: {ref: user/repo}", ["model.ref reads user/repo"]),
        ("model: {ref: inside/../../mine}", ["model.ref reads inside/../../mine"]),
        ("model: {ref: a/b, args: {x: [{y: /etc/passwd}]}}", ["model.args.x.0.y reads /etc/passwd"]),
        ("model: {ref: a/b, args: {x: 'local-dir:/etc'}}", ["model.args.x reads local-dir:/etc"]),
        ("model: {ref: a/b, args: {x: 'https://a.b/c'}}", ["model.args.x reads https://a.b/c"]),
        (MODEL + "prune: {mask: /etc}", ["prune.mask reads /etc"]),
        (MODEL + "prune: {parameters: ./mine}", ["prune.parameters reads ./mine"]),
        (
            MODEL + "prune: {data: {name: fashion_mnist, folder: ..}}",
            ["prune.data.folder reads .."],
        ),
        (
            MODEL + "prune: {allocation: {name: from_mask, checkpoint: theirs/link}}",
            ["prune.allocation.checkpoint reads theirs/link"],
        ),
        (
            MODEL + "push: {repo: a/b, revision: main, private: true}",
            [f"push.repo {SENDS}", "push.private is True", "push.revision is main"],
        ),
        (MODEL + "push: {revision: main}", []),
        ("model: {ref: 'timm:local-dir:mine'}", ["model.ref reads timm:local-dir:mine"]),
        ("model: {ref: 'timm:mine'}\nprune: {parameters: 'transformers:user'}", []),
        (f"model: {{ref: '{'timm:' * 800}/etc'}}", [f"model.ref reads {'timm:' * 800}"[:200] + "..."]),
        ("model: {ref: a/b}", []),
        ("model: {ref: 'a/b@main', pretrained: true}", []),
        ("model: {ref: 'hf-hub:a/b', args: {drop_rate: 0.1, act_layer: gelu, x: ''}}", []),
        (MODEL + "prune: {parameters: 'timm:test_vit', data: noise}", []),
        ("model: {ref: theirs/inside}", []),
        (MODEL + "prune: {parameters: 1000, sparsity: null}", []),
        (MODEL + "name: mine\nprune: {include: [mine], exclude: [/etc]}", []),
    ],
)  # fmt: skip
def test_what_needs_consent(place: Path, text: str, needed: list[str]) -> None:
    (place / "theirs" / "link").symlink_to(place / "mine")
    recipe = load_recipe(write(place, text))
    assert [str(one) for one in permissions(recipe)] == needed
    assert permissions(recipe.consented()) == ()
    assert permissions(parse_recipe(recipe.resolved())) == (), "made in Python: the caller's own word"


@pytest.mark.parametrize(
    ("text", "settings", "needed"),
    [
        ("model: {ref: 'torch:a.b'}", ["model.ref=torch:c.d"], []),
        ("model: {ref: 'torch:a.b'}", ["model={ref: 'torch:c.d', args: {x: 1}}"], []),
        ("model: {ref: 'torch:a.b'}", ["model.args.x=1"], ["model.ref imports and calls torch:a.b"]),
        (
            "model: {ref: a/b, args: {path: x}}",
            ["model.ref=torch:c.d", "model.args.y=1"],
            ["model.args are arguments of torch:c.d"],
        ),
        ("model: {ref: a/b, args: {x: 1}}", ["model.ref=torch:c.d", "model.args.x=2"], []),
        ("model: {ref: a/b, args: {x: {y: 1}}}", ["model.ref=torch:c.d", "model.args.x.z=2"],
         ["model.args are arguments of torch:c.d"]),
        (MODEL + "prune: {mask: /etc}", ["prune.mask=/usr"], []),
        (MODEL + "prune: {mask: /etc}", ["prune.score=snip"], ["prune.mask reads /etc"]),
        (
            MODEL + "data: {source: {name: fashion_mnist, folder: /etc}}",
            ["data.source.name=fashion_mnist"],
            ["data.source.folder reads /etc"],
        ),
        (
            MODEL + "data: {source: {name: fashion_mnist, folder: /etc}}",
            ["data.source=fashion_mnist"],
            [],
        ),
        (MODEL + "data: {source: &a {name: fashion_mnist, folder: /etc}}\nprune: {data: *a}",
         ["prune.data.folder=/usr"], ["data.source.folder reads /etc"]),
        (MODEL + "push: {repo: a/b, private: false}", ["push.repo=me/mine"], []),
        (MODEL + "push: {repo: a/b, create_pr: true}", ["push.repo=me/mine"], ["push.create_pr is True"]),
        ("model: {ref: a/b, args: {x.y: /etc}}", ["model.args.x=1"], ["model.args.x.y reads /etc"]),
    ],
)  # fmt: skip
def test_what_is_typed_is_the_caller_s_own_word(
    place: Path, text: str, settings: list[str], needed: list[str]
) -> None:
    assert [str(one) for one in permissions(load_recipe(write(place, text), settings))] == needed


def test_the_own_folder_is_not_where_a_link_to_the_file_leads(place: Path) -> None:
    (place / "recipe.yaml").write_text("model: {ref: mine}")
    (place / "theirs" / "recipe.yaml").symlink_to(place / "recipe.yaml")
    assert permissions(load_recipe(place / "recipe.yaml")) == ()
    assert [str(one) for one in permissions(load_recipe("theirs"))] == ["model.ref reads mine"]


def test_the_own_folder_stays_when_the_working_folder_changes(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(place, "model: {ref: ./inside}")
    recipe = load_recipe("theirs")
    monkeypatch.chdir(place / "theirs")
    assert permissions(recipe) == (), "theirs/inside"
    (place / "mine" / "inside").mkdir()
    monkeypatch.chdir(place / "mine")
    assert [str(one) for one in permissions(recipe)] == ["model.ref reads ./inside"]


def test_the_line_is_one_and_readable_whatever_the_recipe_says(place: Path) -> None:
    many = ", ".join(f"x{i}: /etc/{i}" for i in range(20))
    text = f'model: {{ref: "torch:a.b\\nerror: all is well\\e[2J", args: {{{many}}}}}'
    with pytest.raises(NeedsConsent) as caught:
        expect_consent(load_recipe(write(place, text)))
    message = str(caught.value)
    assert message.isprintable()
    assert "; and 13 more; " in message
    assert message.endswith("add --trust (trust=True in Python), or give these values yourself with --set")
    with pytest.raises(NeedsConsent) as caught:
        expect_consent(load_recipe(write(place, f"model: {{ref: 'torch:{'a' * 4000}.b'}}")))
    assert len(str(caught.value)) < 600


TINY = (
    "model: {ref: 'torch:trap_under_test.make', args: {x: 1}}\ntrain: {epochs: 0}\nisometry: null\n"
    "baselines: []\nmeasure: {examples: 2}\n"
)


def test_consent_is_given_by_a_flag(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(place, TINY)
    assert main(["run", "theirs", "--out", "out", "--quiet"]) == 2
    assert untouched(place)
    assert main(["run", "theirs", "--out", "out", "--quiet", "--trust"]) == 0
    assert (place / "modules" / "CALLED").exists()
    capsys.readouterr()
    assert main(["run", "out", "--out", "again", "--quiet"]) == 2, "what a run writes is a file as well"
    assert "model.ref imports and calls torch:trap_under_test.make" in capsys.readouterr().err
    assert not (place / "again").exists()


def test_nothing_is_sent_without_consent(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(sigprune.experiment.runner, "push", lambda *to, **_: sent.append(to))
    path = write(place, TINY + "push: {repo: a/b}\n")
    with pytest.raises(NeedsConsent, match=rf"push\.repo {SENDS}"):
        run(load_recipe(path, ["model.ref=torch:trap_under_test.make", "model.args={}"]), "out")
    assert untouched(place)
    assert not sent
    run(path, "out", trust=True)
    assert sent == [("out", "a/b")]


def test_the_origin_stays_with_copies_and_does_not_change_the_experiment(place: Path) -> None:
    path = write(place, "name: x\nmodel: {ref: 'torch:a.b'}\n")
    recipe = load_recipe(path)
    own = parse_recipe({"name": "x", "model": {"ref": "torch:a.b"}})
    assert recipe == own
    assert hash(recipe) == hash(own)
    assert recipe != recipe.resolved()
    assert permissions(own) == permissions(Recipe.model_validate(recipe.resolved())) == ()
    for other in (
        recipe.model_copy(update={"seed": 3}),
        copy.deepcopy(recipe),
        pickle.loads(pickle.dumps(recipe)),
        Recipe.model_validate(recipe),
    ):
        assert len(permissions(other)) == 1


@pytest.mark.parametrize(
    "name", ["quickstart", "digits_synflow", "digits_sculpt", "fashion_vit_transformers"]
)
def test_shipped_recipes_ask_for_nothing_also_as_files(name: str, tmp_path: Path) -> None:
    assert permissions(load_recipe(name)) == ()
    path = tmp_path / "copy.yaml"
    path.write_text(load_recipe(name).to_yaml())
    assert permissions(load_recipe(path)) == ()


EVENTS: list[tuple[str, str]] | None = None
"""What the audit hook, which cannot be taken away again, has seen; None while it does not listen."""
WATCHED = (
    "subprocess.", "os.system", "os.exec", "os.posix_spawn", "socket.", "shutil.", "os.remove", "os.mkdir",
    "os.rename", "os.symlink", "os.link", "os.truncate", "os.chmod",
)  # fmt: skip


def hook(event: str, arguments: tuple[object, ...]) -> None:
    opened = event == "open" and ("secret" in str(arguments[0]) or "w" in str(arguments[1]))
    imported = event == "import" and str(arguments[0]).startswith("trap_under_test")
    if EVENTS is not None and (opened or imported or event.startswith(WATCHED)):
        EVENTS.append((event, str(arguments)))


def test_no_file_is_opened_and_no_process_or_connection_made(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen by the interpreter's own audit events."""
    (place / "secret").mkdir()
    (place / "secret" / "config.json").write_text("{}")
    (place / "secret" / "train-images-idx3-ubyte.gz").write_text("")
    texts = [
        "model: {ref: 'torch:os.system', args: {command: 'touch PWNED'}}",
        "model: {ref: 'torch:trap_under_test.make'}",
        "model: {ref: secret, pretrained: true}",
        "model: {ref: 'timm:test_resnet'}\ndata: {source: {name: fashion_mnist, folder: secret}}",
        "model: {ref: 'timm:test_resnet'}\nprune: {mask: ./secret}",
        "model: {ref: 'timm:test_resnet'}\npush: {repo: a/b}",
    ]
    folders = [place / f"folder{i}" for i in range(len(texts))]
    for folder, text in zip(folders, texts, strict=True):
        folder.mkdir()
        (folder / "recipe.yaml").write_text(text)
    before = sorted(place.rglob("*"))
    sys.addaudithook(hook)
    monkeypatch.setattr(sys.modules[__name__], "EVENTS", [])
    codes = [main([word, str(folder)]) for folder in folders for word in ("run", "check", "validate")]
    assert EVENTS == []
    assert codes == [2, 2, 0] * len(folders)
    assert sorted(place.rglob("*")) == before
    (place / "secret" / "config.json").read_text()
    assert EVENTS, "the hook sees what it should"


def test_what_is_typed_still_has_to_make_a_module(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(place, MODEL)
    command = f"model.args={{command: 'touch {place / 'PWNED'}'}}"
    for words in (
        ["show", "timm:test_resnet", "--set", "model.ref=torch:os.system", "--set", command],
        ["show", "torch:os.system", "--set", command],
        ["layers", "torch:subprocess.getoutput", "--set", command],
        ["spectrum", "torch:os.system", "--set", command],
        ["prune", "torch:os.system", "--set", command],
        ["run", str(path), "--set", "model.ref=torch:os.system", "--set", command],
        ["run", str(path), "--set", "prune.parameters=torch:os.getcwd"],
    ):
        assert main(words) == 2, words
        assert "nothing was called" in capsys.readouterr().err, words
    assert not (place / "PWNED").exists()
    with pytest.raises(BadInput, match="nothing was called"):
        run(write(place, "model: {ref: 'torch:os.getcwd'}"), place / "out", trust=True)
