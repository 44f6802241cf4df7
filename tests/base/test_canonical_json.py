"""One text for each value, the one that docs/format.md describes."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sigprune.base.canonical_json import with_digest
from sigprune.base.errors import BadInput
from tests.reference.canonical import canonical, without_digest

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), PLAIN, max_size=4))
@example({
    "\uffff": 1e-5,
    "\U0001f600": 1e16,
    "a": [0.0, -0.0, 1e-4, 9999999999999998.0, 2.5e-310, 5e-324, 1e23],
})
@example({
    "a": [
        2.0**-24,
        70368744177664.375,
        2.0**-1074,
        2.0**1023,
        2.0**53 + 2,
        123456789012345680.0,
        1e22,
        0.1,
        100.0,
    ]
})
@example({
    "nested": {"digest": "x"},
    "z": '{"digest":"',
    "a": "\\",
    "b": '\\"',
    "\x7f/\x00\b\f\n\r\t\xe9": True,
})
def test_the_page_says_how_values_are_written(plain: dict) -> None:
    plain.pop("digest", None)
    text, digest = without_digest(with_digest({**plain, "zz": 0}))
    assert text == canonical({**plain, "zz": 0})
    assert digest == hashlib.sha256(text.encode()).hexdigest()
    assert json.loads(text) == {**plain, "zz": 0}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object()])
def test_what_is_no_finite_json_is_refused(value: object) -> None:
    with pytest.raises(BadInput, match="plain, finite JSON"):
        with_digest({"a": value})  # type: ignore[dict-item]
