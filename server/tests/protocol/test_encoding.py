"""The bytes of events: any text in, the same text out of every parser (EVT-6), and the same bytes each time (EVT-7)."""

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
def test_what_is_encoded_is_read_back_equal(value: JsonValue) -> None:
    assert repr(json.loads(dumps(value))) == repr(value)


@given(text=WITH_SURROGATES | LINE_BREAKERS)
def test_encoded_json_is_one_line_by_anybodys_definition(text: str) -> None:
    """EVT-6, SSE-2: also for clients that split the stream with `str.splitlines`, in keys as in values."""
    encoded = dumps({text: [text]}).decode()

    assert encoded.splitlines() == [encoded]
    assert json.loads(encoded) == {whole_text(text): [whole_text(text)]}


def test_json_is_compact_and_unescaped_where_it_may_be() -> None:
    assert dumps({"a": ["Grüße", "😀", "\u2028"], "b": 1.5}) == '{"a":["Grüße","😀","\\u2028"],"b":1.5}'.encode()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_json_cannot_say_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        dumps({"a": [number]})


@given(text=WITH_SURROGATES)
def test_any_text_can_be_sent(text: str) -> None:
    assert json.loads(one_line(json.dumps(text, ensure_ascii=False))) == whole_text(text)


@given(text=TEXT)
def test_whole_text_is_left_as_it_is(text: str) -> None:
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
def test_halves_of_a_character_are_joined_or_replaced(text: str, whole: str) -> None:
    assert whole_text(text) == whole
