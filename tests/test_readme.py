"""Every code block and every command of the README runs, in its order, in one empty folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import sigprune
from sigprune.cli.catalogue import list_rows

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


class Block(NamedTuple):
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that its first line names in a comment."""
        found = re.match(r"# (\S+\.(?:py|yaml))\n", self.text)
        return found[1] if found else None


BLOCKS = [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)]
MEMBERS = [block for block in BLOCKS if (block.file or "").startswith("sigprune/families/")]
STORY = [block for block in BLOCKS if block not in MEMBERS]


def commands(block: Block) -> list[str]:
    return [line.removeprefix("$ ") for line in block.text.splitlines() if line.startswith("$ ")]


def call(arguments: list[str], folder: Path, code: Path = ROOT) -> str:
    """What a command prints, with two threads, as on most computers at least; it must end well."""
    environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=3600
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"
    return done.stdout


def words(text: str) -> list[str]:
    """The text without its numbers and bars, which differ from one processor to the next."""
    return re.findall(r"[^\W\d]{2,}", re.sub(r"\d[\d.,e+-]*|[▁-█]", " ", text))


def exact(text: str) -> list[str]:
    """The lines that are the same on every processor."""
    return [line for line in text.splitlines() if line.startswith(("sparsity ", "gates ", "written "))]


@pytest.mark.slow
def test_the_story(tmp_path):
    """Commands, Python blocks and recipes, one after the other, as a reader would try them."""
    assert {block.language for block in STORY} == {"console", "python", "yaml"}
    for block in STORY:
        if block.language == "yaml":
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            call([sys.executable, "-c", block.text], tmp_path)
        else:
            for command in commands(block):
                first, *rest = shlex.split(command)
                assert first == "sigprune"
                printed = call([sys.executable, "-m", "sigprune", *rest], tmp_path)
                shown = block.text.partition(f"$ {command}\n")[2].partition("\n$ ")[0]
                if not shown.startswith("$ "):
                    assert not shown or words(shown) == words(printed)
                    assert set(exact(shown)) <= set(exact(printed))


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of the source with the members that the README adds."""
    root = tmp_path_factory.mktemp("extended")
    for name in ("sigprune", "recipes", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, root)
    for block in MEMBERS:
        (root / block.file).write_text(block.text, encoding="utf-8")
    return root


def test_every_family_has_a_section_with_a_whole_file():
    families = {row["family"] for row in list_rows(None, "*")}
    assert {block.file.split("/")[2] for block in MEMBERS} == families
    sections = re.findall(r"^### Adding (?:a|an) (.+)$", README, re.MULTILINE)
    assert len(sections) == len(families) == len(MEMBERS)


@pytest.mark.slow
def test_members_of_the_readme_pass_the_contract(extended):
    """In one process, for importing the libraries takes longer than the tests."""
    members = {block.file.split("/")[2]: Path(block.file).stem for block in MEMBERS}
    printed = call(
        [
            sys.executable, "-m", "pytest", "-rp", "-p", "no:cacheprovider", "-p", "no:randomly",
            *(f"tests/families/test_{family}.py" for family in members), "-k", " or ".join(members.values()),
        ],
        extended,
        code=extended,
    )  # fmt: skip
    for family, name in members.items():
        assert re.search(rf"^PASSED tests/families/test_{family}\.py::.*{name}", printed, re.MULTILINE), (
            family
        )


@pytest.mark.slow
def test_members_of_the_readme_work_together(extended, tmp_path):
    chosen = {
        "--init": "kaiming_uniform", "--objective": "energy", "--score": "slope",
        "--allocation": "square_root", "--schedule": "quadratic", "--isometry": "unit_rows",
        "--data": "stripes", "--size": "32", "--epochs": "1", "--out": "out",
    }  # fmt: skip
    options = [part for option in chosen.items() for part in option]
    settings = [
        "prune.pattern=row_balanced",
        "save.codec=positions",
        "baselines=[]",
        "measure.examples=2",
        "model.args.num_classes=2",
    ]
    settings = [part for setting in settings for part in ("--set", setting)]
    printed = call(
        [sys.executable, "-m", "sigprune", "prune", "torchvision:shufflenet_v2_x0_5", *options, *settings],
        tmp_path,
        code=extended,
    )
    assert "sparsity 0.9000" in printed
    facts = call([sys.executable, "-m", "sigprune", "inspect", "out"], tmp_path, code=extended)
    assert "ShuffleNetV2 (torchvision), codec positions" in facts


def test_the_make_targets_are_the_commands_of_the_readme():
    """make is not run here (it runs these tests): what it would do is looked at."""
    demo = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (command,) = commands(next(block for block in BLOCKS if block.language == "console"))
    assert f"{command} --force" in demo.replace(".venv/bin/", "")
    tests = subprocess.run(
        ["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "-m pytest" in tests
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert [line for line in ci.splitlines() if line.startswith("make ")] == [
        "make test", "make check", "make test-oldest",
    ]  # fmt: skip
    for target in ("make demo", "make test"):
        assert f"`{target}`" in README


def test_the_readme_names_what_there_is():
    for name in re.findall(r"`(\w+)\(", README):
        assert name in {"print", "MemberSpec"} or name in sigprune.__all__, name
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / link).exists(), link
