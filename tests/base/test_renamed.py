"""Old names keep working for one version, and say where the new ones are."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

import sigprune
from sigprune import describe, measure, save
from sigprune.base.errors import RecipeError
from sigprune.base.registry import MemberSpec
from sigprune.base.renamed import MODULES, NAMES, OPTIONS
from sigprune.families.repairs import repairs
from sigprune.families.spectra import spectra
from sigprune.recipe import parse_recipe
from sigprune.values.mask import Mask


@pytest.mark.parametrize("old", MODULES)
def test_modules(old, monkeypatch):
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {MODULES[old]};"):
        module = importlib.import_module(old)
    new = importlib.import_module(MODULES[old])
    public = [name for name in vars(new) if not name.startswith("_")]
    assert public
    assert all(getattr(module, name) is getattr(new, name) for name in public)
    assert new.__spec__.name == MODULES[old]
    with pytest.raises(AttributeError):
        module.nonsense  # noqa: B018


def test_the_warning_names_the_line_that_used_the_old_name(monkeypatch):
    monkeypatch.delitem(sys.modules, "sigprune.values.slot", raising=False)
    monkeypatch.delattr(sys.modules["sigprune.values"], "slot", raising=False)
    operator = sigprune.jacobian(describe(torch.nn.Linear(3, 2)), torch.randn(1, 3))
    with pytest.warns(DeprecationWarning, match="block_spec") as of_module:
        from sigprune.values import slot
    with pytest.warns(DeprecationWarning, match="MemberSpec") as of_name:
        assert sigprune.Step is MemberSpec
    with pytest.warns(DeprecationWarning, match="on_progress") as of_keyword:
        measure(operator, report=lambda *_: None)
    assert slot.BlockSpec is not None
    for caught in (of_module, of_name, of_keyword):
        assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("old", NAMES)
def test_names(old):
    module, _, name = old.rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"{old} is now {module}.{NAMES[old]};"):
        assert getattr(importlib.import_module(module), name) is not None


def test_keywords(tmp_path):
    view, seen = describe(torch.nn.Linear(3, 2)), []
    with pytest.warns(DeprecationWarning, match=r"report=\.\.\.\) is now on_progress="):
        measure(sigprune.jacobian(view, torch.randn(1, 3)), report=lambda *now: seen.append(now))
    assert seen
    with pytest.warns(DeprecationWarning, match="max_shard_bytes"):
        save(tmp_path / "x", view, Mask({}), most=10**6)
    with pytest.raises(TypeError, match="both 'max_shard_bytes' and 'most'"):
        save(tmp_path / "y", view, Mask({}), most=10**6, max_shard_bytes=10**6)


def test_methods():
    view = describe(torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(3, 2)).train())
    with pytest.warns(DeprecationWarning, match="View.probing is now eval_mode"):
        probing = view.probing()
    with probing:
        assert not view.module.training
    assert view.module.training


def test_options_and_keys_of_recipes():
    with pytest.warns(DeprecationWarning, match="most_products is now max_products"):
        assert spectra.resolve(MemberSpec("auto", {"most_products": 7})).options["max_products"] == 7
    with pytest.warns(DeprecationWarning, match="most_gib"):
        recipe = parse_recipe({"model": {"ref": "timm:test_vit"}, "measure": {"most_gib": 0.25}})
    assert recipe.measure.max_memory_gib == 0.25
    assert recipe.digest == parse_recipe(
        {"model": {"ref": "timm:test_vit"}, "measure": {"max_memory_gib": 0.25}}
    ).digest  # fmt: skip
    with pytest.raises(RecipeError, match="unknown key"):
        parse_recipe({"model": {"ref": "timm:test_vit"}, "measure": {"least_gib": 0.25}})
    assert set(OPTIONS.values()) <= {"max_memory_gib", "max_products"}


def test_members_of_the_old_entry_point_group(monkeypatch, tmp_path):
    """A package that declared ``sigprune.isometries`` is still found, as a repair."""
    (tmp_path / "their_repair.py").write_text(
        '"""Theirs."""\n\n\ndef restore(blocks, keep):\n    return blocks\n'
    )
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sigprune.isometries]\ntheirs = their_repair\n")
    monkeypatch.syspath_prepend(tmp_path)
    from sigprune.base import registry

    registry._locations.cache_clear()
    try:
        assert "theirs" in repairs.names()
        assert repairs.read("theirs").summary == "Theirs."
    finally:
        registry._locations.cache_clear()
