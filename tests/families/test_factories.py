"""Import paths: what can be known to make no module is refused before it is called."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sigprune.base.errors import BadInput
from sigprune.models.opening import open_model

SOURCE = """
from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    from elsewhere import Network

TRACE = Path(__file__).with_name("called")


class Plain:
    def __init__(self):
        TRACE.touch()

    @classmethod
    def make(cls):
        return nn.Linear(2, 3)

    def __call__(self):
        TRACE.touch()
        return nn.Linear(2, 3)


class Classifier(Protocol):
    out_features: int


class Own(nn.Linear):
    def __init__(self, out_features: int = 3):
        super().__init__(2, out_features)


def to_text() -> str:
    TRACE.touch()


def to_tensor() -> Tensor | None:
    TRACE.touch()


def to_list() -> list[nn.Module]:
    TRACE.touch()


def to_nothing() -> None:
    TRACE.touch()


def many() -> Iterator[nn.Module]:
    TRACE.touch()
    yield nn.Linear(2, 3)


async def later():
    TRACE.touch()


@functools.cache
def cached_text() -> str:
    TRACE.touch()


def traced(function):
    @functools.wraps(function)
    def inner(**given):
        return function(**given)
    return inner


@traced
def wrapped_text() -> str:
    TRACE.touch()


def bare(out_features=3):
    return nn.Linear(2, out_features)


def to_module() -> nn.Module:
    return bare()


def to_own() -> Own | None:
    return Own()


def to_protocol() -> Classifier:
    return bare()


def to_any() -> Any:
    return bare()


def to_unknown() -> Network:
    return bare()


def lies() -> nn.Module:
    return "no module"


@traced
def wrapped() -> nn.Module:
    return bare()


@functools.cache
def cached() -> nn.Module:
    return bare()


instance = Plain.__new__(Plain)
part = functools.partial(bare, out_features=4)
part_of_system = functools.partial(os.system, "touch " + str(TRACE))
part_of_class = functools.partial(Own, out_features=5)
layer = nn.Linear(2, 3)


def __getattr__(name):
    if name == "Lazy":
        raise ImportError("no such library")
    raise AttributeError(name)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of somebody's, whose callables leave a trace when called."""
    (tmp_path / "factories_under_test.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "factories_under_test", raising=False)
    return "factories_under_test"


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("Plain", "the class factories_under_test.Plain, which is no subclass"),
        ("instance", "Plain factories_under_test"),
        ("to_text", "which returns 'str'"),
        ("to_tensor", "which returns 'Tensor | None'"),
        ("to_list", "which returns"),
        ("to_nothing", "which returns 'None'"),
        ("many", "generators"),
        ("later", "coroutines"),
        ("cached_text", "which returns 'str'"),
        ("wrapped_text", "which returns 'str'"),
        ("part_of_system", "system"),
        ("layer", "Linear"),
        ("TRACE", "Path"),
        ("os.system", "system"),
        ("subprocess.run", "of Python's standard library"),
        ("functools.partial", "the class functools.partial"),
        ("Own.forward", "which returns"),
    ],
)
def test_what_makes_no_module_is_refused_uncalled(package: str, tmp_path: Path, name: str, got: str) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BadInput, match=r"expected a subclass of torch\.nn\.Module, or a function") as caught:
        open_model(f"torch:{package}.{name}")
    assert got in str(caught.value)
    assert str(caught.value).endswith("; nothing was called")
    assert "\n" not in str(caught.value)
    left = [path for path in tmp_path.iterdir() if path.name != "__pycache__"]
    assert left == [path for path in before if path.name != "__pycache__"]


@pytest.mark.parametrize(
    "ref", ["os.system", "builtins.eval", "builtins.dict", "antigravity.webbrowser", "math.pi"]
)
def test_the_standard_library_is_not_even_imported(ref: str) -> None:
    loaded = set(sys.modules)
    with pytest.raises(BadInput, match="of Python's standard library; nothing was called"):
        open_model(f"torch:{ref}", args={"command": "exit 3"})
    assert "antigravity" not in set(sys.modules) - loaded


@pytest.mark.parametrize(
    "name",
    [
        "Own",
        "bare",
        "part",
        "part_of_class",
        "to_module",
        "to_own",
        "to_protocol",
        "to_any",
        "to_unknown",
        "wrapped",
        "cached",
        "Plain.make",
    ],
)
def test_what_may_make_a_module_is_called(package: str, name: str) -> None:
    assert open_model(f"torch:{package}.{name}").in_features == 2


def test_what_cannot_be_imported_when_asked_for_is_one_line(package: str) -> None:
    with pytest.raises(BadInput, match=r"under_test\.Lazy: Lazy cannot be had: no such library$"):
        open_model(f"torch:{package}.Lazy")
    with pytest.raises(BadInput, match=r"unknown name in factories_under_test 'bear'; did you mean bare"):
        open_model(f"torch:{package}.bear")


def test_what_made_none_is_refused_afterwards(package: str) -> None:
    with pytest.raises(BadInput, match=r"expected a torch\.nn\.Module, got str"):
        open_model(f"torch:{package}.lies")


def test_a_package_under_a_name_of_the_standard_library_is_the_caller_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "this.py").write_text("from torch import nn\n\ndef make():\n    return nn.Linear(2, 3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "this", raising=False)
    assert open_model("torch:this.make").in_features == 2
    monkeypatch.delitem(sys.modules, "this", raising=False)
