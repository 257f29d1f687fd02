"""The messages of failed model calls, and which failures are transient."""

from __future__ import annotations

import pytest
from cmdc_gateway.providers.errors import is_transient, parse_retry_after, redact, status_message
from cmdc_gateway.providers.litellm.errors import model_error

NOW = 1_000_000_000.0


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("max_tokens must be at most 4096", "max_tokens must be at most 4096"),
        ("  two\n lines\t", "two lines"),
        ("Incorrect API key provided: sk-proj-abc123XYZ_-9.", "Incorrect API key provided: [hidden]"),
        ("sent Bearer abcdef.ghi", "sent [hidden]"),
        ("see https://platform.example/docs#errors for more", "see [hidden] for more"),
        ("no route to 10.0.0.7:8080", "no route to [hidden]"),
        ("no route to localhost:8080", "no route to [hidden]"),
        ("x-api-key: hunter2", "[hidden]"),
        ("GET /models?key=hunter2&alt=sse", "GET /models?[hidden]&alt=sse"),
        ("id 0123456789abcdef0123456789abcdef", "id [hidden]"),
        ("AIzaSyA1234567890abcdef", "[hidden]"),
        ("the word is hunter2", "the word is [hidden]"),
        ("a-sentence-with-many-hyphens-and-no-digits-in-it", "a-sentence-with-many-hyphens-and-no-digits-in-it"),
    ],
)
def test_addresses_and_credentials_are_redacted(text: str, redacted: str) -> None:
    secrets = ["hunter2"] if text.startswith("the word") else []

    assert redact(text, secrets) == redacted


def test_a_long_message_is_shortened() -> None:
    assert len(redact("word " * 10_000_000)) == 500


def test_408_429_and_5xx_are_transient() -> None:
    assert [status for status in range(400, 600) if is_transient(status)] == [408, 429, *range(500, 600)]


def test_the_message_names_the_status() -> None:
    assert status_message(404, "no such model") == "the model's provider returned status 404: no such model"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        (" 12 ", 12.0),
        ("1.5", 1.5),
        ("Sun, 09 Sep 2001 01:47:10 GMT", 30.0),
        ("Sun, 09 Sep 2001 01:46:10 GMT", 0.0),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("1e9", None),
        ("", None),
        ("tomorrow", None),
    ],
)
def test_retry_after_is_a_number_of_seconds_or_a_date(header: str, seconds: float | None) -> None:
    assert parse_retry_after(header, NOW) == seconds


def test_a_defect_is_permanent_and_an_unknown_error_of_litellm_is_transient() -> None:
    error = model_error(KeyError("choices"))

    assert (error.reason, error.transient) == ("the model could not be called: 'choices'", False)

    error = model_error(RuntimeError("choices"))

    assert (error.reason, error.transient) == ("the model's provider failed: choices", True)
