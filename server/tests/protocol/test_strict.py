"""HTTP-4: hostile JSON is rejected, and any other JSON is parsed exactly."""

import json
import sys
import time
from contextlib import suppress

import pytest
from cmdc_gateway.protocol.strict import MAX_DEPTH, NotStrictJson, parse_object, parse_value
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
INT64 = st.integers(-(2**63), 2**63 - 1)
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
)
MIB = 1_048_576


@given(value=VALUES, ascii_only=st.booleans(), indent=st.none() | st.integers(0, 4))
def test_valid_json_is_parsed_unchanged(value: JsonValue, ascii_only: bool, indent: int | None) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()

    assert repr(parse_value(raw)) == repr(value)


@given(raw=st.binary(max_size=200) | st.text('[]{}",:\\u0d8c19eE+-. \n\ufefftfn').map(str.encode))
def test_any_bytes_are_either_rejected_or_can_be_encoded_again(raw: bytes) -> None:
    try:
        value = parse_value(raw)
    except NotStrictJson:
        return

    again = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    assert repr(parse_value(again)) == repr(value)


HOSTILE = {
    "no input": (b"", "the input is empty"),
    "only spaces": (b" \r\n\t", "the input is empty"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "byte order mark"),
    "a later byte order mark": ("{}\ufeff".encode(), "line 1, column 3"),
    "UTF-16": ('{"a": 1}'.encode("utf-16-le"), "U+0000 at byte 1"),
    "UTF-16 with a byte order mark": ('{"a": 1}'.encode("utf-16"), "U+0000"),
    "a byte that is not UTF-8": (b'{"a": "\xff"}', "not valid UTF-8: invalid start byte at byte 7"),
    "an overlong character": (b'{"a": "\xc0\xaf"}', "not valid UTF-8"),
    "a surrogate in UTF-8": (b'{"a": "\xed\xa0\x80"}', "not valid UTF-8"),
    "truncated UTF-8": (b'{"a": "\xe2\x82', "not valid UTF-8"),
    "a high surrogate": (rb'{"a": "\ud800"}', "lone surrogate at byte 7"),
    "a low surrogate": (rb'{"a": "\udc00"}', "lone surrogate"),
    "a surrogate in upper case": (rb'{"a": "\uDBFF!"}', "lone surrogate"),
    "a reversed pair": (rb'{"a": "\udc00\ud800"}', "lone surrogate"),
    "two high surrogates": (rb'{"a": "\ud83d\ud83d\ude00"}', "lone surrogate at byte 7"),
    "a surrogate after a backslash": (rb'{"a": "\\\ud800"}', "lone surrogate at byte 9"),
    "a surrogate in a key": (rb'{"\ud800": 1}', "lone surrogate"),
    "a surrogate deep inside": (rb'{"a": [[{"b": ["\udfff"]}]]}', "lone surrogate"),
    "a null character": (b'{"a": "\0"}', "U+0000 at byte 7"),
    "an escaped null character": (rb'{"a": "\u0000"}', "U+0000 at byte 7"),
    "an escaped null character in a key": (rb'{"\u0000": 1}', "U+0000"),
    "a null character after the end": (b"{}\0", "U+0000"),
    "NaN": (b'{"a": NaN}', "NaN is not JSON"),
    "Infinity": (b'{"a": Infinity}', "Infinity is not JSON"),
    "-Infinity": (b'{"a": -Infinity}', "-Infinity is not JSON"),
    "nan": (b'{"a": nan}', "line 1, column 7"),
    "1e999": (b'{"a": 1e999}', "the number '1e999' is too large"),
    "-1e999": (b'{"a": -1e999}', "the number '-1e999' is too large"),
    "above int64": (b'{"a": 9223372036854775808}', "does not fit into 64 bits"),
    "below int64": (b'{"a": -9223372036854775809}', "does not fit into 64 bits"),
    "400 digits": (b'{"a": ' + b"7" * 400 + b"}", "does not fit into 64 bits"),
    "a leading zero": (b'{"a": 01}', "line 1, column 8"),
    "a plus": (b'{"a": +1}', "line 1, column 7"),
    "a bare point": (b'{"a": 1.}', "line 1, column 8"),
    "hexadecimal": (b'{"a": 0x1}', "line 1, column 8"),
    "non-ASCII digits": ('{"a": ١}'.encode(), "line 1, column 7"),
    "a duplicate key": (b'{"a": 1, "b": 2, "a": 1}', "the key 'a' is duplicated"),
    "a duplicate key, once escaped": (rb'{"a": 1, "\u0061": 2}', "the key 'a' is duplicated"),
    "a duplicate key deep inside": (b'{"x": [{"y": {"a": 1, "a": 2}}]}', "the key 'a' is duplicated"),
    "65 levels of arrays": (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "deeper than 64"),
    "65 levels of objects": (b'{"a":' * 65 + b"1" + b"}" * 65, "deeper than 64"),
    "900 levels": (b"[" * 900 + b"]" * 900, "deeper than 64"),
    "depth after a string of brackets": (b'["]]]]]]]]\\"]]",' + b"[" * 64 + b"]" * 65, "deeper than 64"),
    "trailing data": (b"{} {}", "line 1, column 4: extra data"),
    "a trailing comma": (b'{"a": 1,}', "line 1, column "),  # the comma or what follows it, by the version of Python
    "a comment": (b"{} // yes", "extra data"),
    "single quotes": (b"{'a': 1}", "line 1, column 2"),
    "a line break in a string": (b'{"a":\n "\n"}', "line 2, column 3: invalid control character"),
    "an unknown escape": (rb'{"a": "\x41"}', "line 1, column 8"),
    "a truncated escape": (rb'{"a": "\u00"}', "line 1, column 9"),
    "an unterminated string": (b'{"a": "', "unterminated string"),
    "an unterminated object": (b'{"a": 1', "line 1, column 8: expecting ',' delimiter"),
    "a Unicode space": ("\u00a0{}".encode(), "line 1, column 1"),
    "a form feed": (b"\f{}", "line 1, column 1"),
}


@pytest.mark.parametrize(("raw", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_json_is_rejected_with_a_reason(raw: bytes, reason: str) -> None:
    """HTTP-4: each of these gets 400; the message says why."""
    with pytest.raises(NotStrictJson) as caught:
        parse_object(raw)

    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"[]", "an array"),
        (b'"{}"', "a string"),
        (b"1", "a number"),
        (b"1.5", "a number"),
        (b"true", "a boolean"),
        (b"null", "null"),
    ],
)
def test_a_body_that_is_not_an_object_is_rejected(raw: bytes, kind: str) -> None:
    """HTTP-4: bodies are objects; a callback's answer may be any value."""
    with pytest.raises(NotStrictJson, match=f"^the JSON must be an object, not {kind}$"):
        parse_object(raw)

    assert parse_value(raw) == json.loads(raw)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"-0", 0),
        (b"1.0", 1.0),
        (b"0.1", 0.1),
        (b"1E+2", 100.0),
        (b"1.7976931348623157e308", sys.float_info.max),
        (b"1e-999", 0.0),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (rb'"\ud83d\ude00"', "\N{GRINNING FACE}"),
        (rb'"\\ud800 \\u0000"', r"\ud800 \u0000"),
        (rb'"\uffff\u2028\r"', "\uffff\u2028\r"),
        (b' [1, "[[[{"] \r\n', [1, "[[[{"]),
    ],
)
def test_unusual_json_is_parsed_exactly(raw: bytes, value: JsonValue) -> None:
    assert repr(parse_value(raw)) == repr(value)


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
        b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH,
        b"[" + b"[]," * 1000 + b"[]]",
        b'["' + b"[{" * 1000 + rb"\"[[" + b'"]',
    ],
)
def test_only_nested_brackets_count_as_depth(raw: bytes) -> None:
    """HTTP-4: 64 levels are allowed, and any number of brackets side by side or in a string."""
    assert parse_value(raw) == json.loads(raw)


@given(raw=st.sampled_from([value[0] for value in HOSTILE.values()]), padding=st.integers(0, 500))
def test_an_error_contains_only_an_excerpt_of_the_input(raw: bytes, padding: int) -> None:
    long_key = b'{"' + b"secret" * padding + b'": 1, "' + b"secret" * padding + b'": ' + raw

    with pytest.raises(NotStrictJson) as caught:
        parse_object(long_key)

    assert len(str(caught.value)) < 160
    assert str(caught.value).count("secret") <= 8


ENDLESS = {
    "digits": b"1" * MIB,
    "a fraction": b"0." + b"3" * MIB,
    "an exponent": b"1e" + b"9" * MIB,
    "minus signs": b"-" * MIB,
    "opening brackets": b"[" * MIB,
    "opening objects": b'{"":' * (MIB // 4),
    "closing brackets": b"]" * MIB,
    "flat arrays": b"[" + b"[]," * (MIB // 3) + b"[]]",
    "numbers": b"[" + b"1," * (MIB // 2) + b"1]",
    "floats": b"[" + b"1e9," * (MIB // 4) + b"1]",
    "quotes": b'"' * MIB,
    "quotes in a list": b"[" * 65 + b'"",' * (MIB // 3),
    "escaped quotes": b"[" * 65 + b'"' + rb"\"" * (MIB // 2),
    "backslashes": b"[" * 65 + b'"' + b"\\" * MIB,
    "escapes": b'"' + rb"\u0041" * (MIB // 6) + b'"',
    "surrogate pairs": b'"' + rb"\ud83d\ude00" * (MIB // 12) + b'"',
    "pairs and then a lone surrogate": b'"' + rb"\ud83d\ude00" * (MIB // 12) + rb"\ud83d" + b'"',
    "one key repeated": b"{" + b'"a":1,' * (MIB // 6) + b'"a":1}',
    "spaces": b" " * MIB,
    "lines": b"\n" * MIB + b"x",
    "letters": b"a" * MIB,
}


@pytest.mark.parametrize("raw", ENDLESS.values(), ids=ENDLESS.keys())
def test_a_mebibyte_of_any_input_is_parsed_or_rejected_quickly(raw: bytes) -> None:
    """HTTP-4, HTTP-5: a body of maximum size takes a bounded time, and raises no RecursionError."""
    started = time.process_time()
    with suppress(NotStrictJson):
        parse_value(raw)

    # Linear time is about 0.1 s; quadratic time would be minutes.
    assert time.process_time() - started < 2.0


def test_depth_is_rejected_whatever_the_recursion_limit() -> None:
    """HTTP-4: the parser never recurses into a million brackets, even if the recursion limit allowed it."""
    allowed = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000_000)
    try:
        with pytest.raises(NotStrictJson, match="deeper than 64"):
            parse_value(b"[" * MIB)
    finally:
        sys.setrecursionlimit(allowed)
