"""Every JSON text of a folder, damaged at random: each command succeeds, or says why not in one line."""

from __future__ import annotations

import json
import random
import re
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import transformers

import sigprune
from sigprune.base.errors import SigpruneError
from sigprune.checkpoint.read import load
from sigprune.cli.app import main
from sigprune.format.names import PACKED, PACKED_INDEX
from tests.checkpoint.test_hostile import header_of, with_digest, with_header

FOLDERS = Path(__file__).parents[1] / "fixtures" / "release-0.1.0"
BESIDE = {
    "report.json": {"schema": 1, "recipe": {"a": [1]}, "signal": [], "files": {}},
    "generation_config.json": {"temperature": 1.0},
    "preprocessor_config.json": {"image_mean": [0.5]},
    "tokenizer_config.json": {"model_max_length": 10**30},
}
OURS = {PACKED, PACKED_INDEX}
"""What the plug-in reads. Of others, and before it asks the plug-in, transformers raises what it likes."""

SOURCE = str(Path(sigprune.__file__).parent)

COMMANDS: list[list[str]] = [
    ["inspect", "X"],
    ["inspect", "X", "--json"],
    ["inspect", "X", "--verify"],
    ["convert", "X", "NEW"],
    ["convert", "X", "NEW", "--to", "dense"],
    ["push", "X", "user/repo", "--dry-run"],
    ["prune", "X", "--by-shard", "--sparsity", "0.5", "--out", "NEW"],
]


class Raw(str):
    """JSON text that stays as it is."""


def some_text(draw: random.Random) -> Raw:
    """What stands where something else is expected, as text: most of it is more than Python's values."""
    return Raw(
        draw.choice([
            "null", "true", "-1", "0", "1e400", "-0.0", "NaN", "-Infinity", "9" * 400, "9" * 5000,
            '""', '"x"', r'"\ud800"', r'"a\nerror: b"', '"\\u001b[2J"', "[]", "[[]]", "{}", '{"a":1,"a":2}',
            '{"":{"":[]}}', "[" * 700 + "]" * 700, "[" * 5000 + "]" * 5000, '{"a":' * 90 + "1" + "}" * 90,
            "[1,", "", "1 2", '"half"', '"uint4"', '"../x"', "[3]", '"\x00"',
        ])
    )  # fmt: skip


def mutated(draw: random.Random, value: object) -> object:
    """One change somewhere inside."""
    if isinstance(value, dict) and value and draw.random() < 0.95:
        key, changed = draw.choice(sorted(value)), dict(value)
        match draw.randrange(6):
            case 0:
                del changed[key]
            case 1:
                changed[draw.choice([key + "\n", "", "\ud800", key.upper()])] = changed.pop(key)
            case 2:
                changed[key] = changed[draw.choice(sorted(value))]
            case _:
                changed[key] = mutated(draw, value[key])
        return changed
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        return [mutated(draw, each) if i == place else each for i, each in enumerate(value)]
    return some_text(draw)


def text_of(value: object) -> str:
    """JSON, with raw texts as they are."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{text_of(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(text_of, value)) + "]"
    return json.dumps(value)


def damage(draw: random.Random, path: Path) -> None:
    """Change one text: a JSON file, the header of a file of tensors, or what our own entry in it says."""
    if path.suffix == ".json":
        plain = json.loads(path.read_text())
        if path.name == PACKED_INDEX and draw.random() < 0.5:
            inner = mutated(draw, json.loads(plain["metadata"]["sigprune"]))
            plain["metadata"]["sigprune"] = resigned(inner)
        else:
            plain = mutated(draw, plain)
        path.write_bytes(text_of(plain).encode("utf-8", "surrogatepass"))
        return
    header, data = header_of(path.read_bytes())
    if "sigprune" in header.get("__metadata__", {}) and draw.random() < 0.7:
        inner = mutated(draw, json.loads(header["__metadata__"]["sigprune"]))
        header["__metadata__"]["sigprune"] = resigned(inner)
        path.write_bytes(with_header(header, data))
        return
    text = text_of(mutated(draw, header)).encode("utf-8", "surrogatepass")
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def resigned(inner: object) -> str:
    """A manifest or index with its right digest, where Python can write it."""
    text = text_of(inner)
    try:
        plain = json.loads(text)
        return with_digest(plain) if isinstance(plain, dict) else text
    except (ValueError, RecursionError):
        return text


@contextmanager
def damaged(name: str, number: int, home: Path) -> Iterator[tuple[Path, Path]]:
    """A copy of a folder with one damaged text, and which one."""
    draw, folder = random.Random(f"{name} {number}"), home / "X"
    shutil.copytree(FOLDERS / name, folder)
    for file, plain in BESIDE.items():
        (folder / file).write_text(json.dumps(plain))
    if draw.random() < 0.3:  # a dense source
        for path in folder.glob("model.*sparse*"):
            path.unlink()
    path = draw.choice(sorted(p for p in folder.iterdir() if p.suffix in {".json", ".safetensors"}))
    damage(draw, path)
    try:
        yield folder, path
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(home / "NEW", ignore_errors=True)


def try_all(name: str, number: int, home: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """How many of the commands succeed."""
    good = 0
    with damaged(name, number, home) as (folder, path):
        for words in COMMANDS:
            case = (name, number, path.name, words)
            capsys.readouterr()
            given = [{"X": str(folder), "NEW": str(home / "NEW")}.get(word, word) for word in words]
            code = main([*given, "--quiet"])
            out, err = capsys.readouterr()
            # bars of transformers, which was imported before the command line could say that it wants none
            err = re.sub(r"Loading weights:[^\r\n]*\n?", "", err).replace("\r", "")
            assert code in {0, 2}, (case, err)
            good += code == 0
            if code:
                assert out == "", (case, out)
                assert err.startswith("error: "), (case, err)
                assert err.count("\n") == 1, (case, err)
                assert len(err) < 2500, (case, err)
                assert not (home / "NEW").exists(), case
            shutil.rmtree(home / "NEW", ignore_errors=True)
        accept(lambda: load(folder), SigpruneError, (name, number, path.name, "load"))
        if name != "timm":
            case = (name, number, path.name, "from_pretrained")
            kind = SigpruneError if path.name in OURS else Exception
            try:
                transformers.AutoModelForMaskedLM.from_pretrained(folder, variant="sparse")
            except (kind, OSError):
                pass
            except Exception as error:
                if any(SOURCE in frame.filename for frame in traceback.extract_tb(error.__traceback__)):
                    raise AssertionError(case) from error
    return good


def accept(
    act: Callable[[], object], kinds: type[Exception] | tuple[type[Exception], ...], case: object
) -> None:
    try:
        act()
    except kinds:
        return
    except Exception as error:
        raise AssertionError(case) from error


@pytest.mark.parametrize("name", ["timm", "transformers", "shards"])
def test_a_few_damaged_texts(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sum(try_all(name, number, tmp_path, capsys) for number in range(6)) >= 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm", "transformers", "shards"])
def test_many_damaged_texts(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = sum(try_all(name, number, tmp_path, capsys) for number in range(6, 306))
    assert 0 < good < 300 * len(COMMANDS)
