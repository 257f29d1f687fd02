"""The JSON encoder: any text survives every parser (EVT-6), and the bytes are always the same (EVT-7)."""

import json

import pytest
from cmdc_gateway.protocol.encoding import dumps, one_line, whole_text
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
WITH_SURROGATES = st.text(st.characters() | st.characters(categories=["Cs"]))
LINE_BREAKERS = st.text("a\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\0\x7f\ufeff😀")
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
)


@given(value=VALUES)
def test_an_encoded_value_is_decoded_unchanged(value: JsonValue) -> None:
    assert repr(json.loads(dumps(value))) == repr(value)


@given(text=WITH_SURROGATES | LINE_BREAKERS)
def test_encoded_json_has_no_line_breaks_of_any_kind(text: str) -> None:
    """EVT-6, SSE-2: in keys and values, also for clients that split the stream with `str.splitlines`."""
    encoded = dumps({text: [text]}).decode()

    assert encoded.splitlines() == [encoded]
    assert json.loads(encoded) == {whole_text(text): [whole_text(text)]}


def test_json_is_compact_and_escapes_only_what_it_must() -> None:
    assert dumps({"a": ["Grüße", "😀", "\u2028"], "b": 1.5}) == '{"a":["Grüße","😀","\\u2028"],"b":1.5}'.encode()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_without_a_json_form_are_rejected(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        dumps({"a": [number]})


@given(text=WITH_SURROGATES)
def test_any_text_can_be_encoded(text: str) -> None:
    assert json.loads(one_line(json.dumps(text, ensure_ascii=False))) == whole_text(text)


@given(text=TEXT)
def test_text_without_surrogates_is_unchanged(text: str) -> None:
    assert whole_text(text) == text


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("\ud83d\ude00", "😀"),
        ("a\ud83d", "a\ufffd"),
        ("\ude00a", "\ufffda"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83d\ud83d\ude00", "\ufffd😀"),
    ],
)
def test_surrogates_are_joined_or_replaced(text: str, whole: str) -> None:
    assert whole_text(text) == whole
