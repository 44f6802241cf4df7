"""The rules that keep the code liveable: rooms, one home per heavy library, parameters, names."""

from __future__ import annotations

import ast
import subprocess
import sys
import tokenize
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

import sigprune
from tests import api

ROOT = Path(sigprune.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

ROOMS = (
    "base", "values", "format", "sources", "families", "models", "init", "propagation", "pruning",
    "checkpoint", "training", "report", "hub", "recipe", "experiment", "cli",
)  # fmt: skip
"""The folders; each imports only those before it."""
VALUES = (
    "layout", "convolution", "weight", "batch", "origin", "recomputation", "view", "mask", "taps", "paths",
    "operator", "convolution_operator", "spectrum", "gains", "block_spec", "ranking", "compatibility",
    "problem", "orthogonality", "finding", "preprocessing",
)  # fmt: skip
"""The files of ``values``; each imports only those before it."""
LONGEST_CHAIN = 13
HOMES = {
    "accelerate": ["training/loop.py"],
    "datasets": ["families/datasets/_hub.py"],
    "huggingface_hub": ["hub/", "sources/", "families/adapters/"],
    "matplotlib": ["report/figures"],
    "pydantic": ["recipe/", "base/registry.py"],
    "rich": ["cli/"],
    "safetensors": ["checkpoint/safetensors_io.py"],
    "sklearn": ["families/datasets/digits.py"],
    "timm": ["families/adapters/"],
    "transformers": ["families/adapters/", "checkpoint/transformers_plugin.py"],
    "typer": ["cli/"],
    "yaml": ["recipe/", "report/model_card.py"],
}

DENIED = frozenset({
    "told", "tell", "said", "gone", "beside", "lacking", "filling", "joining", "rehearse", "objection",
    "signed", "sculpt", "by_turns", "copy_beside", "Tell", "Told", "Plain", "Slot", "Step", "Choice",
})  # fmt: skip
"""Identifiers with a standard word in their place: record, provenance, pruned, on_progress, missing, ..."""


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module imported anywhere in a file, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module}
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def name_of(path: Path) -> str:
    return ".".join(("sigprune", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


@cache
def ours(path: Path) -> frozenset[str]:
    """Modules of the package that a file imports."""
    return frozenset(name for name in imports(path) if name in MODULES)


def rooms() -> Mapping[str, frozenset[str]]:
    """Folder -> the folders that its files import."""
    table: dict[str, set[str]] = {room: set() for room in ROOMS}
    for path in FILES:
        here = path.relative_to(ROOT).parts
        if len(here) > 1:
            reached = {name.split(".")[1] for name in ours(path) if name != "sigprune"}
            table[here[0]] |= reached - {here[0]}
    return {room: frozenset(reached) for room, reached in table.items()}


def test_the_top_level_holds_rooms():
    entries = {p.name for p in ROOT.iterdir() if p.name not in {"__pycache__", "_recipes"}}
    assert entries == {*ROOMS, "__init__.py", "__main__.py", "py.typed"}


def test_rooms_import_downwards():
    table = rooms()
    depth: dict[str, int] = {}
    for room in ROOMS:
        above = table[room] - set(ROOMS[: ROOMS.index(room)])
        assert not above, f"{room}/ imports {', '.join(sorted(above))}, which stand above it"
        depth[room] = 1 + max((depth[other] for other in table[room]), default=0)
        print(f"{room:12} {depth[room]:2} {' '.join(sorted(table[room], key=ROOMS.index))}")
    assert max(depth.values()) <= LONGEST_CHAIN


@pytest.mark.parametrize("name", MODULES)
def test_private_modules_stay_in_their_package(name):
    for other in ours(MODULES[name]):
        parts = other.split(".")
        private = next((i for i, part in enumerate(parts) if part.startswith("_")), None)
        if private is not None:
            owner = ".".join(parts[:private])
            assert f"{name}.".startswith(f"{owner}."), f"{name} imports {other}, which is private to {owner}"


@pytest.mark.parametrize("path", sorted((ROOT / "values").glob("[a-z]*.py")), ids=lambda p: p.stem)
def test_values_import_earlier_values(path):
    for name in ours(path):
        if name.startswith("sigprune.values."):
            assert VALUES.index(name.split(".")[2]) < VALUES.index(path.stem), f"{path.stem} imports {name}"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "families").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_members_do_not_know_each_other(path):
    """A member imports its own family's contract and private files; no other member and no other family."""
    here = path.relative_to(ROOT).parts
    if len(here) < 3 or (path.parent.parent.name == "families" and path.name == "__init__.py"):
        return
    family = f"sigprune.families.{here[1]}"
    member = None if here[2].startswith("_") else f"{family}.{here[2].removesuffix('.py')}"
    for name in ours(path):
        if name.startswith("sigprune.families."):
            rest = name.removeprefix(family).lstrip(".")
            inside = f"{name}.".startswith(f"{family}.")
            assert inside, f"{'/'.join(here)} imports another family: {name}"
            own = member is not None and f"{name}.".startswith(f"{member}.")
            assert not rest or rest.startswith("_") or own, f"{'/'.join(here)} imports a sibling: {name}"


@pytest.mark.parametrize("library", HOMES)
def test_heavy_libraries_have_one_home(library):
    for path in FILES:
        where = str(path.relative_to(ROOT))
        if any(name.split(".")[0] == library for name in imports(path)):
            assert where.startswith(tuple(HOMES[library])), f"{where} imports {library}"


def test_no_cycles():
    edges = {name: ours(path) - {name, "sigprune"} for name, path in MODULES.items() if name != "sigprune"}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in edges.get(name, ()):
                visit(other, (*trail, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def functions(path: Path) -> list[ast.FunctionDef]:
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]


def test_parameters():
    """At most 8 besides the subject, keyword-only ones counted."""
    for path in FILES:
        if path.parent.name == "cli":
            continue  # a command's parameters are its command-line options
        for f in functions(path):
            count = len(f.args.args) + len(f.args.kwonlyargs) + len(f.args.posonlyargs)
            assert count <= 9, f"{path}:{f.name} has {count} parameters"


def test_no_vague_module_names():
    stems = {p.stem for p in FILES if not p.stem.startswith("_")}
    assert not stems & {"utils", "util", "helpers", "common", "misc"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_denied_identifier(path):
    with path.open("rb") as file:
        names = {token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.NAME}
    assert not names & DENIED


def test_public_names():
    for name in sigprune.__all__:
        thing = getattr(sigprune, name)
        assert thing.__doc__, name
        assert ">>>" in thing.__doc__, f"{name} has no runnable example"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        sigprune.nonsense  # noqa: B018


def test_the_public_api_is_that_of_the_snapshot():
    """A change of a public signature is made on purpose: ``python -m tests.api`` writes the list again."""
    assert api.PAGE.read_text(encoding="utf-8") == api.listing()


def test_importing_the_package_imports_no_torch():
    code = "import sys, sigprune, sigprune.recipe.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
