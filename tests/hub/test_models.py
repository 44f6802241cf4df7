"""Models by their Hub ids, with the real clients against a small Hub on loopback: names, and bad input.

Importing the libraries takes seconds, so one client process opens many repositories.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sigprune.base.errors import BadInput
from sigprune.base.tensors import digest
from sigprune.families.adapters import adapters
from sigprune.models.opening import open_model
from tests.support.hub import SILENT, TOKEN, client, serving

OPEN = """
import contextlib, io, json, sys, time
from sigprune import open_model
from sigprune.base.errors import BadInput
from sigprune.base.tensors import digest
from sigprune.cli.app import main

time.sleep = lambda seconds: None  # between the tries of huggingface_hub
for name, args in json.loads(sys.argv[1]):
    settings = [word for key, value in args.items() for word in ("--set", f"model.args.{key}={value}")]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = main(["show", name, "--pretrained", "--quiet", *settings])
    try:
        model = open_model(name, pretrained=True, args=args)
        got = [type(model).__name__, digest(model.state_dict())]
    except BadInput as error:
        got = [str(error)]
    print(json.dumps([code, said.getvalue(), got]))
"""
VIT = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
MODELS = {"timm": ("test_resnet", {"num_classes": 7}), "transformers": ("vit", VIT)}
Case = tuple[str, Mapping[str, int]]


def upload(folder: Path, library: str, seed: int = 0) -> nn.Module:
    """A whole repository of a small model of the library."""
    architecture, args = MODELS[library]
    torch.manual_seed(seed)
    model = adapters.get(library).build(architecture, args)
    folder.mkdir(parents=True)
    adapters.get(library).write_config(model, folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return model


def configure(folder: Path, **changes: object) -> None:
    """Change ``config.json``."""
    path = folder / "config.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(old | changes))


def opened(
    environment: dict[str, str], cases: Iterable[Case], folder: Path, *, fresh: bool = False
) -> list[list[str]]:
    """What ``open_model`` gives for each: class and digest, or the error; the command line says the same.

    Args:
        environment: of the client.
        cases: names, and arguments of the models.
        folder: where the client runs.
        fresh: it imports the libraries itself, with the settings of the command line.
    """
    if fresh:
        environment = {key: value for key, value in environment.items() if key not in SILENT}
    cases = list(cases)
    folder.mkdir(exist_ok=True)
    done = client(environment, OPEN, json.dumps(cases), folder=folder, fresh=fresh)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert not list(folder.iterdir()), "something is left behind"
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(cases)
    for code, said, got in rows:
        assert (code, said) == ((2, f"error: {got[0]}\n") if len(got) == 1 else (0, "")), said
    return [got for _, _, got in rows]


def shard(folder: Path, suffix: str) -> None:
    """Two files under an index in place of ``model.safetensors``."""
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    parts = {f"part-1{suffix}": names[:5], f"part-2{suffix}": names[5:]}
    for file, inside in parts.items():
        save_file({name: state[name] for name in inside}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, inside in parts.items() for name in inside}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def test_names(tmp_path):
    """Revisions, tokens, and the cache without a network, of both libraries."""
    hub, expected = tmp_path / "models", {}
    for library in MODELS:
        for seed, name in enumerate((library, f"{library}@refs%2Fpr%2F1", f"{library}@v1")):
            expected[f"someone/{name.replace('%2F', '/')}"] = upload(hub / "someone" / name, library, seed)
        for user in ("gated", "private"):
            expected[f"{user}/{library}"] = upload(hub / user / library, library, 3)
    expected["someone/sharded"] = upload(hub / "someone" / "sharded", "transformers", 4)
    shard(hub / "someone" / "sharded", ".safetensors")
    # the weights that timm itself points to
    torch.manual_seed(5)
    expected["timm:test_resnet"] = adapters.get("timm").build("test_resnet", {})
    (hub / "timm" / "test_resnet.r160_in1k").mkdir(parents=True)
    path = hub / "timm" / "test_resnet.r160_in1k" / "model.safetensors"
    save_file(expected["timm:test_resnet"].state_dict(), path)
    wanted = [[type(model).__name__, digest(model.state_dict())] for model in expected.values()]
    assert len({found for _, found in wanted}) == 10
    cases = [(name, {}) for name in expected]
    with serving(tmp_path) as environment:
        token = environment | {"HF_TOKEN": TOKEN}
        assert opened(token, cases, tmp_path / "cwd") == wanted
    # what was fetched once opens again: without a network, without a server, and without a token
    absent = [("someone/timm@v2", {}), ("someone/other", {})]
    offline = opened(environment | {"HF_HUB_OFFLINE": "1"}, cases + absent, tmp_path / "cwd")
    unreached = opened(environment, cases + absent, tmp_path / "cwd")
    for found, start in ((offline, "HF_HUB_OFFLINE is set, and"), (unreached, "cannot reach http://127.")):
        assert found[: len(cases)] == wanted
        for (name, _), (line,) in zip(absent, found[len(cases) :], strict=True):
            assert line.startswith(f"{name}: {start}"), line
            assert f"config.json is not in the cache ({environment['HF_HOME']}/hub); " in line


def unreadable(hub: Path) -> dict[str, str]:
    """Repositories that do not open, and what is said of them."""
    for name, text in {"text": "no JSON", "list": "[]", "deep": "[" * 10**5}.items():
        configure(hub / name)
        (hub / name / "config.json").write_text(text)
    (hub / "bare").mkdir()
    configure(hub / "large")
    with (hub / "large" / "config.json").open("wb") as file:
        file.truncate(2**30)
    configure(hub / "empty")
    configure(hub / "type", model_type="vitt")
    configure(hub / "odd", model_type=["vit"])
    configure(hub / "architecture", architecture="test_resnot", pretrained_cfg={})
    return {
        "text": "expected JSON, got 'no JSON'... (Expecting value: line 1 column 1",
        "list": "expected a JSON object, got list",
        "deep": "expected JSON of at most ",
        "bare": "it has no config.json, which says what model it is; expected",
        "large": "config.json: expected at most ",
        "empty": "its config.json has neither model_type (transformers) nor architecture (timm)",
        "type": "its config.json names the model_type 'vitt', which transformers ",
        "odd": "its config.json names the model_type ['vit'], which transformers ",
        "architecture": "its config.json names the architecture 'test_resnot', which timm ",
    }


def foreign_code(hub: Path) -> dict[str, str]:
    """Repositories that name code: pickles, modules of their own, and what is no model."""
    code = {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.Model"}
    for name in ("own", "class", "trainer", "named", "shards", "pickled"):
        upload(hub / name, "transformers")
    configure(hub / "own", model_type="mine", auto_map=code)
    configure(hub / "class", architectures=["Mine"], auto_map=code)
    configure(hub / "trainer", architectures=["Trainer"])
    configure(hub / "named", transformers_weights="pytorch_model.bin")
    shard(hub / "shards", ".bin")
    upload(hub / "pickle", "timm")
    for name in ("pickled", "pickle"):
        torch.save(load_file(hub / name / "model.safetensors"), hub / name / "pytorch_model.bin")
        (hub / name / "model.safetensors").unlink()
    for folder in hub.iterdir():
        (folder / "code.py").write_text("open('left_behind', 'w')")
    return {
        "own": "its model_type 'mine' is code of the repository's own (auto_map), which sigprune never runs",
        "class": "has no class Mine (code of the repository's own, auto_map, is never run); set the task",
        "trainer": "has no class Trainer; set the task to one of image-classification, ",
        "named": "expected a safetensors file as weights, got 'pytorch_model.bin'; pickles are never loaded",
        "shards": "expected a safetensors file as weights, got 'part-1.bin'; pickles are never loaded",
        "pickled": "it has no model.safetensors or model.safetensors.index.json, and pickles (.bin, .pth)",
        "pickle": "it has no model.safetensors, and pickles (.bin, .pth) are never loaded; ",
    }


def unfit(hub: Path) -> dict[str, str]:
    """Repositories whose weights are not those of their model, for each library."""
    said = {}
    for library in MODELS:
        for name in ("short", "lost", "shape"):
            upload(hub / f"{name}-{library}", library)
            path = hub / f"{name}-{library}" / "model.safetensors"
            state = load_file(path)
            if name == "lost":
                del state[max(state)]
            if name == "shape":
                state = {key: value.expand(2, *value.shape).clone() for key, value in state.items()}
            save_file(state, path, metadata={"format": "pt"})
            if name == "short":
                path.write_bytes(path.read_bytes()[:-100])
        said[f"short-{library}"] = "model.safetensors is truncated or no safetensors file: its "
        said[f"lost-{library}"] = said[f"shape-{library}"] = "its weights are not those of its architecture: "
    upload(hub / "head", "transformers")
    path = hub / "head" / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "classifier" not in k}, path, {"format": "pt"})
    return said | {
        "head": "architecture: 2 tensors are missing there or have another shape, first classifier"
    }


def test_bad_input_is_one_line(tmp_path):
    """From the Hub and from a folder, to Python and on the command line."""
    hub = tmp_path / "models" / "someone"
    said = unreadable(hub) | foreign_code(hub) | unfit(hub)
    for user in ("gated", "private", "broken"):
        upload(hub.parent / user / "vit", "transformers")
    address = r"http://127\.0\.0\.1:\d+"
    closed = {
        "gated/vit": f"a gated repository, and TOKEN; accept its terms on {address}/gated/vit, and set ",
        "private/vit": f"no such repository on {address}, or a private one, and TOKEN; check the name, ",
    }
    names = {f"someone/{name}": re.escape(text) for name, text in said.items()} | {
        "someone/modle": closed["private/vit"],
        "someone/text@v9": f"there is no such branch, tag or commit; {address}/someone/text/tree/main lists",
        "someone/a--b": r"no valid name of a repository; expected user/repo of letters",
        "broken/vit": f"{address} answered 500 Internal Server Error, and config.json is not in the cache ",
    }
    with serving(tmp_path) as environment:
        for token, wanted in ((None, names | closed), ("hf_wrong", closed)):
            given = environment | ({"HF_TOKEN": token} if token else {})
            found = opened(given, [(name, {}) for name in wanted], tmp_path / "cwd")
            state = "the token in use does not open it" if token else "no token is set"
            for (name, text), (line,) in zip(wanted.items(), found, strict=True):
                assert line.startswith(f"{name}: "), line
                assert re.search(text.replace("TOKEN", state, 1), line), line
    assert not [path for path in Path(environment["HF_HOME"]).rglob("*") if path.suffix in {".bin", ".py"}]
    for name, text in said.items():
        with pytest.raises(BadInput, match=re.escape(text)) as caught:
            open_model(str(hub / name), pretrained=True)
        assert str(caught.value).startswith(f"{hub / name}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_what_may_start_afresh(tmp_path):
    """A head that the caller asks for, and nothing else; code that is not needed is not run either."""
    hub = tmp_path / "models" / "someone"
    unfit(hub)
    model = upload(hub / "known", "transformers")
    configure(hub / "known", auto_map={"AutoConfig": "code.Config"})
    (hub / "known" / "code.py").write_text("open('left_behind', 'w')")
    cases = [
        ("someone/known", {}),
        ("someone/head", {"num_labels": 3}),
        ("someone/lost-timm", {"num_classes": 3}),
        ("someone/lost-transformers", {"num_labels": 3}),
        ("someone/shape-timm", {"num_classes": 3}),
        ("someone/shape-transformers", {"num_labels": 3}),
    ]
    with serving(tmp_path) as environment:
        known, head, *others = opened(environment, cases, tmp_path / "cwd", fresh=True)
    assert known == [type(model).__name__, digest(model.state_dict())]
    assert head[0] == "ViTForImageClassification"
    for (name, _), (line,) in zip(cases[2:], others, strict=True):
        assert line.startswith(f"{name}: its weights are not those of its architecture"), line
