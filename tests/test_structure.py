"""The rules that keep the code liveable: layers, one home per heavy library, parameters, names."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import sigprune

ROOT = Path(sigprune.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

LAYERS = ["base", "values", "families", "verbs", "effects", "recipe", "experiment", "cli"]
VALUES = [
    "bits", "layout", "convolution", "weight", "batch", "origin", "recomputation", "view", "mask", "taps",
    "paths", "operator", "convolution_operator", "spectrum", "gains", "slot", "ranking", "composition",
    "problem", "orthogonality", "finding", "manifest", "network", "packed", "preprocessing",
]  # fmt: skip
HOMES = {
    "accelerate": ["effects/training.py"],
    "datasets": ["families/datasets/_hub.py"],
    "huggingface_hub": ["effects/hub", "families/adapters/"],
    "matplotlib": ["effects/figures"],
    "pydantic": ["recipe.py", "recipe_", "base/family.py"],
    "rich": ["cli"],
    "safetensors": ["verbs/files.py"],
    "sklearn": ["families/datasets/digits.py"],
    "timm": ["families/adapters/"],
    "transformers": ["families/adapters/"],
    "typer": ["cli"],
    "yaml": ["recipe.py", "recipe_", "effects/card.py"],
}


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


def layer(parts: tuple[str, ...]) -> int:
    top = parts[0].removesuffix(".py")
    top = next((known for known in LAYERS if top == known or top.startswith(f"{known}_")), top)
    return LAYERS.index(top) if top in LAYERS else len(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downwards(path):
    here = path.relative_to(ROOT).parts
    if here in {("__init__.py",), ("__main__.py",)}:
        return
    for name in imports(path):
        parts = tuple(name.split("."))
        if parts[0] != "sigprune" or len(parts) < 2 or name == "sigprune.__version__":
            continue
        assert layer(parts[1:]) <= layer(here), f"{name} is above {'/'.join(here)}"
        if here[0] == "values" and parts[1] == "values" and here[1] != "__init__.py":
            mine, theirs = VALUES.index(here[1].removesuffix(".py")), VALUES.index(parts[2])
            assert theirs <= mine, f"{name} comes after {here[1]} in the order of values"
        if (
            here[0] == "families"
            and len(here) > 2
            and here[2] != "__init__.py"
            and parts[1:2] == ("families",)
        ):
            # its own folder's contract or an underscore file; another family's contract never
            assert parts[2] == here[1], f"{'/'.join(here)} imports another family: {name}"
            contract = len(parts) < 4 or parts[3][0].isupper()
            assert contract or parts[3].startswith("_"), f"{'/'.join(here)} imports a sibling: {name}"


@pytest.mark.parametrize("library", HOMES)
def test_heavy_libraries_have_one_home(library):
    for path in FILES:
        where = str(path.relative_to(ROOT))
        if any(name.split(".")[0] == library for name in imports(path)):
            assert where.startswith(tuple(HOMES[library])), f"{where} imports {library}"


def test_no_cycles():
    graph = {}
    for path in FILES:
        name = ".".join(("sigprune", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        graph[name] = path
    edges = {
        name: {other for other in imports(path) if other in graph and other != name}
        for name, path in graph.items()
        if name != "sigprune"
    }
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
        if path.name.startswith("cli"):
            continue  # a command's parameters are its command-line options
        for f in functions(path):
            count = len(f.args.args) + len(f.args.kwonlyargs) + len(f.args.posonlyargs)
            assert count <= 9, f"{path}:{f.name} has {count} parameters"


def test_no_vague_or_shadowing_module_names():
    stems = {p.stem for p in FILES if not p.stem.startswith("_")}
    assert not stems & {"utils", "util", "helpers", "common", "misc"}
    assert not stems & set(sigprune.__all__)


def test_public_names():
    assert len(sigprune.__all__) <= 26
    for name in sigprune.__all__:
        thing = getattr(sigprune, name)
        assert thing.__doc__, name
        assert ">>>" in thing.__doc__, f"{name} has no runnable example"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        sigprune.nonsense  # noqa: B018


def test_importing_the_package_imports_no_torch():
    code = "import sys, sigprune, sigprune.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
