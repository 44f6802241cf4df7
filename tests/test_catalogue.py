"""Every architecture of timm, every type of transformers: no parameter missed, no entry counted twice."""

from __future__ import annotations

import re

import pytest
import timm
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from tests.catalogue import PAGE, TYPES, page, timm_rows, timm_table, transformers_row, transformers_table
from tests.support.test_shrinking import VERSION

NEWEST = pytest.mark.skipif(
    VERSION < (5, 23), reason="the small models are of the types of transformers 5.23"
)


TEXT = PAGE.read_text(encoding="utf-8")
STALE = "the page says something else; run: python -m tests.catalogue"


@pytest.mark.slow
@pytest.mark.parametrize("module", timm.list_modules())
def test_timm(module):
    rows = timm_rows(module)
    assert all(0.5 < row.in_weights / row.parameters <= 1 for row in rows)
    (*_, line) = timm_table(rows).splitlines()
    assert line in TEXT.splitlines(), STALE


@NEWEST
@pytest.mark.slow
def test_transformers():
    rows = [transformers_row(model_type) for model_type in TYPES]
    assert all(0 < row.in_weights <= row.parameters for row in rows)
    assert transformers_table(rows) in TEXT, STALE


@NEWEST
def test_the_page_has_a_row_for_each_module_and_nothing_else():
    of_timm, of_transformers = re.findall(r"^\|.*\|$(?:\n\|.*\|$)*", TEXT, re.MULTILINE)
    assert page(of_timm, of_transformers) == TEXT, STALE
    assert re.findall(r"^\| (\w+) \| \d", of_timm, re.MULTILINE) == sorted(timm.list_modules())


@NEWEST
def test_the_catalogues_are_whole():
    assert len(timm.list_models()) >= 1371
    assert len(TYPES) >= 600
    assert set(TYPES) < set(MODEL_MAPPING_NAMES)
