"""What an operator sets, in the environment and in one TOML file; the environment wins."""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cmdc_gateway.errors import BadRequest
from cmdc_gateway.protocol.sessions import CreateSessionBody
from cmdc_gateway.providers.aliases import target_from_config
from cmdc_gateway.providers.target import ModelTarget
from cmdc_gateway.store.url import store_from_url
from cmdc_gateway.tenancy.keys import DEFAULT_TENANT, check_keys
from cmdc_gateway.tenancy.meter import BudgetConfig
from cmdc_gateway.tools.builtin import READ_ONLY
from cmdc_gateway.tools.callbacks.addresses import AddressPolicy
from cmdc_gateway.tools.plugin import tool_names


class InvalidSetting(Exception):
    """The gateway cannot start like this; the sentence says which setting, and what it may be."""


def _listed(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


CommaNumbers = Annotated[list[Annotated[int, Field(ge=0, le=60_000)]], NoDecode, BeforeValidator(_listed)]
CommaList = Annotated[list[str], NoDecode, BeforeValidator(_listed)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Section):
    """`[models."name:x"]`: a model the operator serves under a name of theirs."""

    model: str
    api_base: str | None = None
    api_key_env: str | None = None


class RateSection(_Section):
    """`[rate_limit]`: requests per minute and key, and how many may come at once."""

    rpm: int | None = Field(None, ge=0)
    burst: int | None = Field(None, ge=1)


class ToolsSection(_Section):
    """`[tools]`: the built-in tools sessions may have, and those of them that always need an approval."""

    offered: list[str] = [*READ_ONLY, "ask_user"]
    approval: list[str] = ["shell"]

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in (*self.offered, *self.approval):
            if name not in tool_names():
                raise ValueError(f"unknown tool {name!r}; installed tools: {', '.join(tool_names())}")
        return self


class BudgetSection(_Section):
    """`[budgets."tenant:NAME"]` or `[budgets."key:ID"]`: what may be spent in each period."""

    max_tokens: int | None = Field(None, ge=1)
    max_cost_usd: float | None = Field(None, gt=0)
    period: Literal["day", "month", "total"] = "total"


class ConfigFile(_Section):
    """The TOML file."""

    api_keys: dict[str, str] = {}
    models: dict[str, ModelSection] = {}
    blueprints: dict[str, dict[str, Any]] = {}
    rate_limit: RateSection = RateSection(rpm=None, burst=None)
    tools: ToolsSection = ToolsSection()
    budgets: dict[str, BudgetSection] = {}


class Settings(BaseSettings):
    """Every setting, `GATEWAY_<NAME>` in the environment. Times are milliseconds where the name says `ms`."""

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
        """The TOML file; empty if there is none."""
        return self._file

    def with_file(self, file: ConfigFile) -> Settings:
        """These settings, with that file."""
        settings = self.model_copy()
        settings._file = file  # noqa: SLF001 - of its own class
        return settings

    @property
    def loopback(self) -> bool:
        """Whether the server listens to this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def tenants(self) -> dict[str, str]:
        """The tenant of each key."""
        return {**self.file.api_keys, **dict.fromkeys(self.api_keys, DEFAULT_TENANT)}

    @property
    def rpm(self) -> int:
        """Requests per minute and key, 0 for no limit (HTTP-9)."""
        for given in (self.rate_limit_rpm, self.file.rate_limit.rpm):
            if given is not None:
                return given
        return 60

    @property
    def workspace_root(self) -> Path:
        """Where tools work: as set, or a folder beside the store."""
        if self.workspace is not None:
            return self.workspace
        if self.store.startswith("sqlite:///"):
            file = Path(self.store.removeprefix("sqlite:///").partition("?")[0])
            return file.with_name(f"{file.stem}-workspace")
        return Path("cmdc-gateway-workspace")

    @property
    def budget_configs(self) -> dict[str, BudgetConfig]:
        return {
            name: BudgetConfig(section.max_tokens, section.max_cost_usd, section.period)
            for name, section in self.file.budgets.items()
        }

    def targets(self, environ: Mapping[str, str]) -> dict[str, ModelTarget]:
        """Where the models are that the operator named. Raises ValueError."""
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
        """Named session settings. Raises ValueError."""
        blueprints: dict[str, CreateSessionBody] = {}
        for name, fields in self.file.blueprints.items():
            try:
                blueprints[name] = CreateSessionBody.model_validate(fields)
            except ValidationError as flaws:
                raise ValueError(f"blueprints.{name}: {_first(flaws)}") from None
            if blueprints[name].blueprint is not None or blueprints[name].session_id is not None:
                raise ValueError(f"blueprints.{name}: a blueprint gives neither sessionId nor another blueprint")
        return blueprints


def load_settings(overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment and the file it names; `overrides` (of the command line) win.

    Raises:
        WrongSetting: one is wrong; the sentence says which.
    """
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    try:
        settings = Settings(**given)
        if settings.config is not None:
            settings = settings.with_file(read_config(settings.config))
        check(settings, os.environ if environ is None else environ)
    except ValidationError as flaws:
        raise InvalidSetting(_named(flaws)) from None
    except (ValueError, BadRequest) as flaw:
        raise InvalidSetting(str(flaw)) from None
    return settings


def store_address(given: str | None) -> str:
    """Where the store is, by the command line or the environment. Raises WrongSetting."""
    try:
        overrides: dict[str, Any] = {} if given is None else {"store": given}
        return Settings(**overrides).store
    except ValidationError as flaws:
        raise InvalidSetting(_named(flaws)) from None


def read_config(path: Path) -> ConfigFile:
    """Read the TOML file. Raises WrongSetting."""
    try:
        data = tomllib.loads(path.read_text())
        config = ConfigFile.model_validate(data)
        check_keys(config.api_keys)
    except OSError as failure:
        raise InvalidSetting(f"GATEWAY_CONFIG: {path} cannot be read: {failure.strerror}") from None
    except ValidationError as flaws:
        raise InvalidSetting(f"{path}: {_first(flaws)}") from None
    except ValueError as flaw:
        raise InvalidSetting(f"{path}: {flaw}") from None
    return config


def check(settings: Settings, environ: Mapping[str, str]) -> None:
    """See that everything that is only used later can be used. Raises ValueError or WrongSetting."""
    try:
        check_keys(settings.api_keys)
    except ValueError as flaw:
        raise InvalidSetting(f"GATEWAY_API_KEYS: {flaw}") from None
    if not settings.loopback and not settings.tenants:
        raise InvalidSetting(
            f"GATEWAY_HOST: the server does not listen on {settings.host}, beyond this machine, without API keys; "
            "make one with `cmdc-gateway keys new` and set GATEWAY_API_KEYS"
        )
    try:
        store_from_url(settings.store)
    except ValueError as flaw:
        raise InvalidSetting(f"GATEWAY_STORE: {flaw}") from None
    try:
        AddressPolicy(settings.callback_allow)
    except ValueError as flaw:
        raise InvalidSetting(f"GATEWAY_CALLBACK_ALLOW: {flaw}") from None
    for tenant in settings.tenants.values():
        if not tenant:
            raise InvalidSetting("api_keys: a tenant's name must not be empty")
    for name in settings.file.budgets:
        if not name.startswith(("tenant:", "key:")):
            raise InvalidSetting(f"budgets.{name}: a budget is named tenant:NAME or key:ID")
    settings.targets(environ)
    settings.blueprints()


def _named(flaws: ValidationError) -> str:
    flaw = flaws.errors(include_input=False)[0]
    return f"GATEWAY_{str(flaw['loc'][0]).upper()}: {_sentence(flaw['msg'])}"


def _first(flaws: ValidationError) -> str:
    flaw = flaws.errors(include_input=False)[0]
    place = flaw["loc"][:1] if flaw["loc"][:1] == ("api_keys",) else flaw["loc"]  # what follows is a key
    return f"{'.'.join(str(part) for part in place)}: {_sentence(flaw['msg'])}"


def _sentence(message: str) -> str:
    match message:
        case "Extra inputs are not permitted":
            return "there is no such setting"
        case "Field required":
            return "is required"
        case _:
            return message.removeprefix("Value error, ").removeprefix("Input ")
