"""Experiments: one recipe, from the model to the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sigprune.base.lazy import lazy_names

if TYPE_CHECKING:
    from sigprune.experiment.runner import run as run

__getattr__ = lazy_names(__name__, {"run": "runner"})
