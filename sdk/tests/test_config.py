"""What a client is set up with, and what it refuses to be set up with."""

import pytest
from cmdc_client import AsyncClient, Client
from cmdc_client.config import DEFAULT_URL, Config


def given(base_url: str | None = None, api_key: str | None = None, **environ: str) -> Config:
    return Config.given(base_url, api_key, timeout=1, max_retries=1, patience=1, silence=1, environ=environ)


def test_arguments_come_before_the_environment_and_that_before_what_is_usual() -> None:
    there = {"CMDC_BASE_URL": "https://there.example/", "CMDC_API_KEY": "k2"}

    assert given(**there).base_url == "https://there.example"
    assert given(**there).credentials == {"X-API-Key": "k2"}
    assert given("http://here.example/agents/", "k1", **there).base_url == "http://here.example/agents"
    assert given("http://here.example", "k1", **there).credentials == {"X-API-Key": "k1"}
    assert (given().base_url, given().credentials) == (DEFAULT_URL, {})
    assert given(CMDC_BASE_URL="", CMDC_API_KEY="").base_url == DEFAULT_URL


@pytest.mark.parametrize(
    ("url", "socket"),
    [("http://h:1/x", "ws://h:1/x"), ("https://h", "wss://h"), ("HTTPS://h", "wss://h")],
)
def test_a_websocket_is_as_safe_as_the_address_is(url: str, socket: str) -> None:
    assert given(url).socket_url == socket


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:4000",
        "ftp://h",
        "http://",
        "http://u:p@h",
        "http://u@h",
        "http://h?key=k",
        "http://h#x",
        "http://[",
        "http://h:port",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused_without_being_repeated(url: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match=r"^base_url must ") as failure:
            kind(url)
        assert url == "http://" or url not in str(failure.value)


@pytest.mark.parametrize("key", ["two words", "line\n", "schlüssel", "\x00"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_repeated(key: str) -> None:
    with pytest.raises(ValueError, match="api_key holds characters") as failure:
        Client("http://h", api_key=key)
    assert key not in str(failure.value)


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(given(api_key="secret"))
