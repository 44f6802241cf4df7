"""A report as a run writes it, from plain numbers."""

from __future__ import annotations

import pytest

from sigprune.report.record import Report
from tests.support.reports import make_data


@pytest.fixture
def data() -> dict[str, object]:
    """The JSON of a report before it is made one."""
    return make_data()


@pytest.fixture
def report(data: dict[str, object]) -> Report:
    return Report(data)
