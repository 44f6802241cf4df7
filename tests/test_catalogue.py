"""Every architecture of timm, every type of transformers: no parameter missed, no entry counted twice."""

from __future__ import annotations

import pytest
import timm
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from tests.catalogue import PAGE, TYPES, page, timm_row, transformers_row
from tests.test_shrinking import VERSION

NEWEST = pytest.mark.skipif(
    VERSION < (5, 23), reason="the small models are of the types of transformers 5.23"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", timm.list_models())
def test_timm(name):
    row = timm_row(name)
    assert 0.5 < row.in_weights / row.parameters <= 1


@NEWEST
@pytest.mark.slow
@pytest.mark.parametrize("model_type", TYPES)
def test_transformers(model_type):
    row = transformers_row(model_type)
    assert 0 < row.in_weights <= row.parameters


@NEWEST
@pytest.mark.slow
def test_the_page_tells_the_truth():
    assert page() == PAGE.read_text(encoding="utf-8"), "run: python -m tests.catalogue"


@NEWEST
def test_the_catalogues_are_whole():
    assert len(timm.list_models()) >= 1371
    assert len(TYPES) >= 600
    assert set(TYPES) < set(MODEL_MAPPING_NAMES)
