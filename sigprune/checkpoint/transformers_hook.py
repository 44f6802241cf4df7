"""Makes transformers decode packed files by itself: ``from_pretrained(repo, variant="sparse")``.

Importing this file imports neither transformers nor torch.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_HOME = "transformers.quantizers.auto"
"""Where transformers keeps what it knows of stored formats."""


def install() -> None:
    """Register the plug-in: now if transformers is imported, else as soon as it is; once only."""
    if _HOME in sys.modules:
        _register()
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


class _Waiting(MetaPathFinder):
    """Sees transformers being imported, lets it be, and registers afterwards."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname != _HOME:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader)
        return spec


class _Then(Loader):
    """Loads a module as its own loader does, and registers."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _register()


def _register() -> None:
    from sigprune.checkpoint.packing import unpack

    try:
        from sigprune.checkpoint.transformers_plugin import register

        register(unpack)
    except Exception as error:  # transformers must stay usable whatever has changed in it
        warnings.warn(
            f"sigprune: this transformers does not take the plug-in for packed files ({error}); "
            'from_pretrained(..., variant="sparse") will refuse them, sigprune.load() reads them',
            RuntimeWarning,
            stacklevel=2,
        )
