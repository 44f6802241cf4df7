"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch
from transformers.quantizers import auto

import sigprune

MODULES = sorted(
    m.name for m in pkgutil.walk_packages(sigprune.__path__, "sigprune.") if "__main__" not in m.name
)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


assert auto  # imports the plug-in, which cannot be imported from its own inside


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = importlib.import_module(name)
    names = {**vars(module), "torch": torch}
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name, globs=names):
        result = doctest.DocTestRunner(optionflags=FLAGS).run(test)
        assert result.failed == 0, f"{test.name}: see the output above"
