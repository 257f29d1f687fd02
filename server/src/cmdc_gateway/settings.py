"""Settings, from environment variables and one TOML file; the environment takes precedence."""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cmdc_gateway import extensions
from cmdc_gateway.errors import BadRequest
from cmdc_gateway.protocol.sessions import CreateSessionBody
from cmdc_gateway.providers.aliases import target_from_config
from cmdc_gateway.providers.target import ModelTarget
from cmdc_gateway.store.factory import create_store
from cmdc_gateway.tenancy.keys import DEFAULT_TENANT, check_keys
from cmdc_gateway.tenancy.meter import BudgetConfig
from cmdc_gateway.tools.builtin import READ_ONLY
from cmdc_gateway.tools.callbacks.addresses import AddressPolicy
from cmdc_gateway.tools.plugin import tool_names

DEFAULT_RPM = 60


class InvalidSetting(Exception):
    """A setting is invalid; the message names it and says which values it may have."""


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


CommaNumbers = Annotated[list[Annotated[int, Field(ge=0, le=60_000)]], NoDecode, BeforeValidator(_split)]
CommaList = Annotated[list[str], NoDecode, BeforeValidator(_split)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Section):
    """`[models."name:x"]`: a model under a name that the operator chooses."""

    model: str
    api_base: str | None = None
    api_key_env: str | None = None


class RateSection(_Section):
    """`[rate_limit]`: requests per minute and key, and the burst size."""

    rpm: int | None = Field(None, ge=0)
    burst: int | None = Field(None, ge=1)


class ToolsSection(_Section):
    """`[tools]`: the built-in tools that are enabled, and those that always require approval."""

    offered: list[str] = [*READ_ONLY, "ask_user"]
    approval: list[str] = ["shell"]

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in (*self.offered, *self.approval):
            if name not in tool_names():
                raise ValueError(f"unknown tool {name!r}; installed tools: {', '.join(tool_names())}")
        return self


class BudgetSection(_Section):
    """`[budgets."tenant:NAME"]` or `[budgets."key:ID"]`: spending limits per period."""

    max_tokens: int | None = Field(None, ge=1)
    max_cost_usd: float | None = Field(None, gt=0)
    period: Literal["day", "month", "total"] = "total"


class ConfigFile(_Section):
    """The TOML configuration file."""

    api_keys: dict[str, str] = {}
    models: dict[str, ModelSection] = {}
    blueprints: dict[str, dict[str, Any]] = {}
    rate_limit: RateSection = RateSection(rpm=None, burst=None)
    tools: ToolsSection = ToolsSection()
    budgets: dict[str, BudgetSection] = {}


class Settings(BaseSettings):
    """All settings, `GATEWAY_<NAME>` in the environment. Those named `…_ms` are times in milliseconds."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_", extra="ignore", frozen=True, use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on. Addresses other than loopback require configured API keys."""
    port: int = Field(4000, ge=0, le=65535)
    """Port to listen on. 0 selects a free port, which is printed at startup."""
    api_keys: CommaList = []
    """API keys of the tenant `default`, comma-separated, in addition to those in the file. If no key is configured, one
    is generated for this run and printed."""
    store: str = "sqlite:///cmdc-gateway.db"
    """`memory:` (not persisted), `sqlite:///relative.db`, or `sqlite:////absolute.db`; SQLite with `?durability=process`
    or `?durability=disk`. A file can be used by one gateway at a time."""
    config: Path | None = None
    """Path of the TOML configuration file."""
    rate_limit_rpm: int | None = Field(None, ge=0)
    """Requests per minute and API key; 60 unless set here or in the file, 0: no limit."""
    workspace: Path | None = None
    """Directory of the built-in tools; it must exist. Default: `cmdc-gateway-workspace` next to the store, created if
    missing."""
    cors_origins: CommaList = ["*"]
    """Allowed CORS origins, comma-separated."""
    callback_allow: CommaList = []
    """Networks (`10.0.0.0/8`), addresses, and host names, comma-separated, that callbacks may connect to in addition to
    public addresses."""
    heartbeat_ms: int = Field(15_000, ge=10, le=30_000)
    """Interval of heartbeat comments on an idle stream; 10 to 30000."""
    grace_ms: int = Field(30_000, ge=0, le=3_600_000)
    """Grace period for active runs after SIGTERM."""
    replay_events: int | None = Field(None, ge=1)
    """Minimum number of events kept per session. Default: all. The newest run is never trimmed."""
    scripted_model: bool = True
    """Whether the scripted model is available."""
    ws_api_key: bool = True
    """Whether WebSockets accept `?api_key=`."""
    queued_prompts: int = Field(100, ge=1, le=10_000)
    """Maximum number of queued prompts per session."""
    body_bytes: int = Field(1_048_576, ge=1_024)
    """Maximum size of a request body."""
    header_bytes: int = Field(32_768, ge=1_024)
    """Maximum total size of the request headers."""
    header_fields: int = Field(100, ge=8)
    """Maximum number of request headers."""
    url_bytes: int = Field(8_192, ge=256)
    """Maximum length of the URL."""
    header_timeout_ms: int = Field(10_000, ge=100)
    """Timeout for receiving the complete headers."""
    body_timeout_ms: int = Field(30_000, ge=100)
    """Timeout for receiving the complete body."""
    ws_message_bytes: int = Field(1_048_576, ge=1_024)
    """Maximum size of a WebSocket message."""
    model_timeout_ms: int = Field(600_000, ge=100)
    """Timeout of an idle connection to a model provider."""
    model_stall_ms: int = Field(120_000, ge=100)
    """Timeout between chunks of a model's response; then the call fails."""
    model_retry_ms: CommaNumbers = [500, 1_000]
    """Delays before each retry of a model call, comma-separated."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Log level: `debug`, `info`, `warning`, or `error`."""
    _file: ConfigFile = PrivateAttr(default_factory=ConfigFile)

    @property
    def file(self) -> ConfigFile:
        """The content of the TOML file, empty if none is configured."""
        return self._file

    def with_file(self, file: ConfigFile) -> Settings:
        """Return a copy of these settings with the content of a file."""
        settings = self.model_copy()
        settings._file = file  # noqa: SLF001 - same class
        return settings

    @property
    def loopback(self) -> bool:
        """Whether the server accepts connections from this machine only."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def tenants(self) -> dict[str, str]:
        """The tenant of each API key, by key or key hash."""
        return {**self.file.api_keys, **dict.fromkeys(self.api_keys, DEFAULT_TENANT)}

    @property
    def rpm(self) -> int:
        """Requests per minute and key, 0 for no limit (HTTP-9)."""
        for rpm in (self.rate_limit_rpm, self.file.rate_limit.rpm):
            if rpm is not None:
                return rpm
        return DEFAULT_RPM

    @property
    def workspace_root(self) -> Path:
        """Directory of the built-in tools: as configured, or next to the store."""
        if self.workspace is not None:
            return self.workspace
        if self.store.startswith("sqlite:///"):
            file = Path(self.store.removeprefix("sqlite:///").partition("?")[0])
            return file.with_name(f"{file.stem}-workspace")
        return Path("cmdc-gateway-workspace")

    @property
    def budget_configs(self) -> dict[str, BudgetConfig]:
        """The configured budgets, by `tenant:NAME` or `key:ID`."""
        return {
            name: BudgetConfig(section.max_tokens, section.max_cost_usd, section.period)
            for name, section in self.file.budgets.items()
        }

    def targets(self, environ: Mapping[str, str]) -> dict[str, ModelTarget]:
        """Return the provider and address of each configured model. Raises ValueError."""
        return {
            name: target_from_config(
                name,
                model=section.model,
                api_base=section.api_base,
                api_key_env=section.api_key_env,
                environ=environ,
            )
            for name, section in self.file.models.items()
        }

    def blueprints(self) -> dict[str, CreateSessionBody]:
        """Return the configured session defaults by name. Raises ValueError."""
        blueprints: dict[str, CreateSessionBody] = {}
        for name, fields in self.file.blueprints.items():
            try:
                blueprints[name] = CreateSessionBody.model_validate(fields)
            except ValidationError as errors:
                raise ValueError(f"blueprints.{name}: {_first(errors)}") from None
            if blueprints[name].blueprint is not None or blueprints[name].session_id is not None:
                raise ValueError(f"blueprints.{name}: a blueprint cannot set sessionId or name another blueprint")
        return blueprints


def load_settings(overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Load settings from the environment and the file it names; `overrides` from the command line take precedence.

    Overrides that are None are ignored. Raises InvalidSetting.
    """
    chosen = {name: value for name, value in (overrides or {}).items() if value is not None}
    try:
        settings = Settings(**chosen)
        if settings.config is not None:
            settings = settings.with_file(read_config(settings.config))
        check(settings, os.environ if environ is None else environ)
    except ValidationError as errors:
        raise InvalidSetting(_variable_error(errors)) from None
    except (ValueError, BadRequest) as error:
        raise InvalidSetting(str(error)) from None
    return settings


def store_address(given: str | None) -> str:
    """Return the store URL from the command line, else from the environment. Raises InvalidSetting."""
    try:
        overrides: dict[str, Any] = {} if given is None else {"store": given}
        return Settings(**overrides).store
    except ValidationError as errors:
        raise InvalidSetting(_variable_error(errors)) from None


def read_config(path: Path) -> ConfigFile:
    """Read and validate the TOML file. Raises InvalidSetting."""
    try:
        data = tomllib.loads(path.read_text())
        config = ConfigFile.model_validate(data)
        check_keys(config.api_keys)
    except OSError as failure:
        raise InvalidSetting(f"GATEWAY_CONFIG: {path} cannot be read: {failure.strerror}") from None
    except ValidationError as errors:
        raise InvalidSetting(f"{path}: {_first(errors)}") from None
    except ValueError as error:
        raise InvalidSetting(f"{path}: {error}") from None
    return config


def check(settings: Settings, environ: Mapping[str, str]) -> None:
    """Validate everything that is used only later. Raises InvalidSetting or ValueError."""
    for group in extensions.GROUPS:
        extensions.names(group)
    with _naming("GATEWAY_API_KEYS"):
        check_keys(settings.api_keys)
    if not settings.loopback and not settings.tenants:
        raise InvalidSetting(
            f"GATEWAY_HOST: {settings.host} is not a loopback address, and the server does not listen on it without API "
            "keys; create one with `cmdc-gateway keys new` and set GATEWAY_API_KEYS"
        )
    with _naming("GATEWAY_STORE"):
        create_store(settings.store)
    with _naming("GATEWAY_CALLBACK_ALLOW"):
        AddressPolicy(settings.callback_allow)
    if "" in settings.tenants.values():
        raise InvalidSetting("api_keys: a tenant's name must not be empty")
    for name in settings.file.budgets:
        if not name.startswith(("tenant:", "key:")):
            raise InvalidSetting(f"budgets.{name}: a budget must be named tenant:NAME or key:ID")
    settings.targets(environ)
    settings.blueprints()


@contextmanager
def _naming(variable: str) -> Generator[None]:
    """Turn a ValueError into an InvalidSetting that names the variable."""
    try:
        yield
    except ValueError as error:
        raise InvalidSetting(f"{variable}: {error}") from None


def _variable_error(errors: ValidationError) -> str:
    error = errors.errors()[0]
    name = str(error["loc"][0])
    return f"GATEWAY_{name.upper()}: {_sentence(error['msg'])}, not {error['input']!r}"


def _first(errors: ValidationError) -> str:
    error = errors.errors(include_input=False)[0]
    location = error["loc"][:1] if error["loc"][:1] == ("api_keys",) else error["loc"]  # the rest is a key
    return f"{'.'.join(str(part) for part in location)}: {_sentence(error['msg'])}"


def _sentence(message: str) -> str:
    match message:
        case "Extra inputs are not permitted":
            return "unknown setting"
        case "Field required":
            return "is required"
        case _:
            return message.removeprefix("Value error, ").removeprefix("Input ")
