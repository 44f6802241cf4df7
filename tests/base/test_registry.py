"""Families: folder as registry, options from the source text, strict values."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import sigprune.families
from sigprune.base.errors import BadInput, RecipeError, UnknownName
from sigprune.base.registry import Family, MemberSpec

PACKAGES = [m.name for m in pkgutil.iter_modules(sigprune.families.__path__, "sigprune.families.")]


def family(package: str) -> Family:
    module = importlib.import_module(package)
    return getattr(module, package.rpartition(".")[2])


@pytest.mark.parametrize("package", PACKAGES)
def test_every_member_reads_and_imports(package):
    group = family(package)
    assert group.names()
    for name in group.names():
        member = group.read(name)
        assert member.summary.endswith("."), f"{package}.{name} has no one-line summary"
        assert callable(getattr(group.get(name), group.entry))
        options = {o.name: o.default for o in member.options.values()}
        if not any(o.required for o in member.options.values()):
            assert dict(group.resolve(name).options) == options


def test_reading_imports_neither_members_nor_torch():
    code = (
        "import sys\n"
        "from sigprune.families.scores import scores\n"
        "from sigprune.families.inits import inits\n"
        "[scores.read(n) for n in scores.names()]\n"
        "inits.resolve('orthogonal')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def inits() -> Family:
    return family("sigprune.families.inits")


def test_options_are_resolved_and_checked(inits):
    assert inits.resolve(MemberSpec("orthogonal", {"gain": 2})) == MemberSpec("orthogonal", {"gain": 2.0})
    with pytest.raises(RecipeError, match=r"init\.orthogonal: unknown option 'gian'; did you mean gain\?"):
        inits.resolve(MemberSpec("orthogonal", {"gian": 2.0}), "init")
    with pytest.raises(RecipeError, match=r"init\.orthogonal\.gain: expected float > 0, got 'two' \(str\)"):
        inits.resolve(MemberSpec("orthogonal", {"gain": "two"}), "init")
    with pytest.raises(UnknownName, match=r"unknown init 'ortogonal'; did you mean orthogonal"):
        inits.resolve("ortogonal")


def test_members_may_be_given_as_modules(inits):
    choice = inits.choose(inits.get("lecun"))
    assert (choice.name, choice.member, choice.options) == ("lecun", inits.get("lecun"), {"gain": 1.0})


def test_a_module_of_ones_own_is_taken_as_it_is(inits):
    """Whatever it is called: not the member of the same name."""
    own = ModuleType("mine.lecun")
    exec("def init(slot, *, gain=3.0, size: int = 2): return gain", vars(own))
    choice = inits.choose(own)
    assert (choice.member, choice.options) == (own, {"gain": 3.0, "size": 2})
    with pytest.raises(BadInput, match=r"mine.lecun is no init: it defines no function init\(\)"):
        vars(own).pop("init") and inits.choose(own)
    exec("def init(slot, *, gain): return gain", vars(own))
    with pytest.raises(RecipeError, match="an option has no default"):
        inits.choose(own)


def test_a_folder_with_a_module_that_is_no_member(tmp_path, monkeypatch):
    folder = tmp_path / "strange_family"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "broken.py").write_text('"""No function."""\nX = 1\n')
    (folder / "good.py").write_text(
        '"""A member."""\nfrom typing import Literal\n'
        "def act(x, *, mode: Literal['a', 'b'] = 'a', count: int): return x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    strange = Family("strange_family", "strange member", "act")
    assert strange.names() == ("broken", "good")
    with pytest.raises(BadInput, match="defines no function act"):
        strange.get("broken")
    with pytest.raises(RecipeError, match="count: expected a value of type int, got none"):
        strange.resolve("good")
    assert strange.resolve(MemberSpec("good", {"count": 1, "mode": "b"})).options == {"mode": "b", "count": 1}
    with pytest.raises(RecipeError, match="got 'c'"):
        strange.resolve(MemberSpec("good", {"count": 1, "mode": "c"}))
