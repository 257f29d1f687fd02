"""The configuration of a client, and the values it rejects."""

import pytest
from cmdc_client import AsyncClient, Client
from cmdc_client.config import DEFAULT_URL, Config


def config(base_url: str | None = None, api_key: str | None = None, **environ: str) -> Config:
    return Config.resolve(
        base_url, api_key, timeout=1, max_retries=1, reconnect_timeout=1, idle_timeout=1, environ=environ
    )


def test_arguments_take_precedence_over_the_environment_and_that_over_the_defaults() -> None:
    environ = {"CMDC_BASE_URL": "https://there.example/", "CMDC_API_KEY": "k2"}

    assert config(**environ).base_url == "https://there.example"
    assert config(**environ).credentials == {"X-API-Key": "k2"}
    assert config("http://here.example/agents/", "k1", **environ).base_url == "http://here.example/agents"
    assert config("http://here.example", "k1", **environ).credentials == {"X-API-Key": "k1"}
    assert (config().base_url, config().credentials) == (DEFAULT_URL, {})
    assert config(CMDC_BASE_URL="", CMDC_API_KEY="").base_url == DEFAULT_URL


@pytest.mark.parametrize(
    ("url", "socket"),
    [("http://h:1/x", "ws://h:1/x"), ("https://h", "wss://h"), ("HTTPS://h", "wss://h")],
)
def test_a_websocket_uses_tls_if_the_base_url_does(url: str, socket: str) -> None:
    assert config(url).websocket_url == socket


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
def test_an_invalid_url_or_one_with_credentials_is_rejected_without_being_repeated(url: str) -> None:
    for client_class in (Client, AsyncClient):
        with pytest.raises(ValueError, match=r"^base_url must ") as failure:
            client_class(url)
        assert url == "http://" or url not in str(failure.value)


@pytest.mark.parametrize("key", ["two words", "line\n", "schlüssel", "\x00"])
def test_a_key_that_is_not_valid_in_a_header_is_rejected_without_being_repeated(key: str) -> None:
    with pytest.raises(ValueError, match="api_key contains characters") as failure:
        Client("http://h", api_key=key)
    assert key not in str(failure.value)


def test_a_key_is_not_part_of_the_repr() -> None:
    assert "secret" not in repr(config(api_key="secret"))
