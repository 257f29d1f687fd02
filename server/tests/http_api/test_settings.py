"""Settings: for an invalid one the server prints one sentence and does not start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cmdc_gateway.__main__ import main
from cmdc_gateway.settings import InvalidSetting, Settings, load_settings

NO_KEYS = (
    "is not a loopback address, and the server does not listen on it without API keys; "
    "create one with `cmdc-gateway keys new` and set GATEWAY_API_KEYS"
)
STORES = "no installed store has this scheme; available: memory, sqlite"
SQLITE = "write sqlite:///relative.db or sqlite:////absolute.db"
DURABILITY = "the only parameters are durability=process and durability=disk"
EVERY_TOOL = "ask_user, glob, grep, list_dir, read_file, shell, write_file"
A_KEY = "an API key must be 1 to 512 visible ASCII characters"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the settings of this machine, and change to an empty directory."""
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_defaults_are_those_of_the_documentation() -> None:
    """HTTP-5, HTTP-9, SSE-3, DUR-3."""
    settings = load_settings()

    assert settings.model_dump() == {
        "host": "127.0.0.1",
        "port": 4000,
        "api_keys": [],
        "store": "sqlite:///cmdc-gateway.db",
        "config": None,
        "rate_limit_rpm": None,
        "workspace": None,
        "cors_origins": ["*"],
        "callback_allow": [],
        "heartbeat_ms": 15_000,
        "grace_ms": 30_000,
        "replay_events": None,
        "scripted_model": True,
        "ws_api_key": True,
        "queued_prompts": 100,
        "body_bytes": 1_048_576,
        "header_bytes": 32_768,
        "header_fields": 100,
        "url_bytes": 8_192,
        "header_timeout_ms": 10_000,
        "body_timeout_ms": 30_000,
        "ws_message_bytes": 1_048_576,
        "model_timeout_ms": 600_000,
        "model_stall_ms": 120_000,
        "model_retry_ms": [500, 1000],
        "log_level": "info",
    }
    assert settings.rpm == 60
    assert settings.tenants == {}
    assert settings.file.tools.offered == ["read_file", "list_dir", "glob", "grep", "ask_user"]
    assert settings.workspace_root == Path("cmdc-gateway-workspace")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "http", "should be a valid integer, unable to parse string as an integer, not 'http'"),
        ("PORT", "65536", "should be less than or equal to 65535, not '65536'"),
        ("HOST", "0.0.0.0", f"0.0.0.0 {NO_KEYS}"),
        ("HOST", "::", f":: {NO_KEYS}"),
        ("HOST", "gateway.example", f"gateway.example {NO_KEYS}"),
        ("API_KEYS", "good,not good", A_KEY),
        ("API_KEYS", "sha256:abc", "an API key written as sha256: needs 64 lower-case hex digits"),
        ("STORE", "postgres://db", f"invalid store URL 'postgres://db': {STORES}"),
        ("STORE", "sqlite://db", f"invalid store URL 'sqlite://db': {SQLITE}"),
        (
            "STORE",
            "sqlite:///a.db?durability=most",
            f"invalid store URL 'sqlite:///a.db?durability=most': {DURABILITY}",
        ),
        ("CONFIG", "missing.toml", "missing.toml cannot be read: No such file or directory"),
        ("RATE_LIMIT_RPM", "-1", "should be greater than or equal to 0, not '-1'"),
        ("CALLBACK_ALLOW", "127.0.0.1/8", "'127.0.0.1/8' is not a valid network: 127.0.0.1/8 has host bits set"),
        (
            "CALLBACK_ALLOW",
            "127.0.0.0/8,a b",
            "'a b' is not a network in CIDR notation, an IP address or a host name",
        ),
        ("HEARTBEAT_MS", "30001", "should be less than or equal to 30000, not '30001'"),
        ("GRACE_MS", "-1", "should be greater than or equal to 0, not '-1'"),
        ("REPLAY_EVENTS", "0", "should be greater than or equal to 1, not '0'"),
        ("QUEUED_PROMPTS", "0", "should be greater than or equal to 1, not '0'"),
        ("SCRIPTED_MODEL", "perhaps", "should be a valid boolean, unable to interpret input, not 'perhaps'"),
        ("BODY_BYTES", "10", "should be greater than or equal to 1024, not '10'"),
        ("LOG_LEVEL", "loud", "should be 'debug', 'info', 'warning' or 'error', not 'loud'"),
    ],
)
def test_an_error_in_a_variable_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, sentence: str
) -> None:
    """It is one line on stderr, and the exit status is 2."""
    monkeypatch.setenv(f"GATEWAY_{name}", value)

    status = main(["serve"])

    assert (status, capsys.readouterr()) == (2, ("", f"cmdc-gateway: GATEWAY_{name}: {sentence}\n"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("= 1", "gateway.toml: Invalid statement (at line 1, column 1)"),
        ("colour = 'red'", "gateway.toml: colour: unknown setting"),
        ("[rate_limit]\nrmp = 1", "gateway.toml: rate_limit.rmp: unknown setting"),
        ("[rate_limit]\nburst = 0", "gateway.toml: rate_limit.burst: should be greater than or equal to 1"),
        ("[api_keys]\n'not good' = 'a'", f"gateway.toml: {A_KEY}"),
        ("[api_keys]\nhush = 1", "gateway.toml: api_keys: should be a valid string"),
        ("[api_keys]\nhush = ''", "api_keys: a tenant's name must not be empty"),
        (
            "[tools]\noffered = ['browse']",
            f"gateway.toml: tools: unknown tool 'browse'; installed tools: {EVERY_TOOL}",
        ),
        ("[budgets.'all']\nmax_tokens = 1", "budgets.all: a budget must be named tenant:NAME or key:ID"),
        ("[budgets.'tenant:a']\nperiod = 'week'", "budgets.tenant:a.period: should be 'day', 'month' or 'total'"),
        ("[models.'a:b']\n", "gateway.toml: models.a:b.model: is required"),
        ("[models.'ab']\nmodel = 'openai/x'", "the model 'ab' must be named provider:model"),
        (
            "[models.'a:b']\nmodel = 'x/y'",
            "the model 'a:b': 'x/y' names no known provider and has no api_base; known providers: ",
        ),
        (
            "[models.'a:b']\nmodel = 'openai/x'\napi_key_env = 'NOWHERE_SET'",
            "the model 'a:b': NOWHERE_SET is not set in the server's environment",
        ),
        (
            "[models.'a:b']\nmodel = 'openai/x'\napi_base = 'example.com'",
            "the model 'a:b': api_base must begin with http:// or https://, not 'example.com'",
        ),
        ("[blueprints.a]\nmaxTurns = 0", "blueprints.a: maxTurns: should be greater than or equal to 1"),
        ("[blueprints.a]\nmax_turns = 1", "blueprints.a: max_turns: unknown setting"),
        ("[blueprints.a]\nsessionId = 's'", "blueprints.a: a blueprint cannot set sessionId or name another blueprint"),
        ("[blueprints.a]\nblueprint = 'b'", "blueprints.a: a blueprint cannot set sessionId or name another blueprint"),
    ],
)
def test_an_error_in_the_file_names_its_place(capsys: pytest.CaptureFixture[str], text: str, sentence: str) -> None:
    """It does not contain a key."""
    Path("gateway.toml").write_text(text)

    status = main(["serve", "--config", "gateway.toml"])

    printed, error = capsys.readouterr()
    assert (status, printed, error.count("\n")) == (2, "", 1)
    assert sentence in error
    assert "hush" not in error


def test_a_file_that_is_not_text_is_an_invalid_setting() -> None:
    Path("gateway.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(InvalidSetting, match=r"^gateway\.toml: "):
        load_settings({"config": "gateway.toml"})


def test_the_environment_takes_precedence_over_the_file_and_the_command_line_over_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keys of the environment are added to those of the file."""
    Path("gateway.toml").write_text("[rate_limit]\nrpm = 10\n[api_keys]\nof-the-file = 'acme'\n")
    monkeypatch.setenv("GATEWAY_CONFIG", "gateway.toml")
    monkeypatch.setenv("GATEWAY_PORT", "1")
    from_file = load_settings()
    monkeypatch.setenv("GATEWAY_RATE_LIMIT_RPM", "20")
    monkeypatch.setenv("GATEWAY_API_KEYS", " one , two ,")

    settings = load_settings({"port": "2", "store": None})

    assert (from_file.rpm, settings.rpm) == (10, 20)
    assert settings.port == 2
    assert settings.tenants == {"of-the-file": "acme", "one": "default", "two": "default"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_without_keys_the_server_may_listen_on_loopback(host: str) -> None:
    """HTTP-7."""
    assert load_settings({"host": host}).loopback


def test_with_a_key_the_server_may_listen_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP-7."""
    monkeypatch.setenv("GATEWAY_API_KEYS", "a-key")

    assert load_settings({"host": "0.0.0.0"}).host == "0.0.0.0"


@pytest.mark.parametrize(
    ("settings", "root"),
    [
        ({"store": "sqlite:///data/a.db"}, "data/a-workspace"),
        ({"store": "sqlite:////srv/a.db?durability=disk"}, "/srv/a-workspace"),
        ({"store": "memory:"}, "cmdc-gateway-workspace"),
        ({"store": "memory:", "workspace": "/srv/files"}, "/srv/files"),
    ],
)
def test_the_workspace_is_next_to_the_store_unless_it_is_configured(settings: dict[str, str], root: str) -> None:
    assert load_settings(settings).workspace_root == Path(root)


def test_every_setting_is_used() -> None:
    """HTTP-3, for operators: a setting that is accepted is enforced."""
    source = Path(str(load_settings.__code__.co_filename)).parent
    code = "".join(path.read_text() for path in source.rglob("*.py"))

    unused = [name for name in Settings.model_fields if f"settings.{name}" not in code and f"self.{name}" not in code]

    assert unused == []
