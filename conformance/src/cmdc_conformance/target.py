"""The server under test: its description in a target file and on the command line, and what discovery found."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, Self, cast, get_args, get_type_hints
from urllib.parse import urlsplit

Driver = Literal["auto", "scripted", "model", "live"]


class TargetError(Exception):
    """The target cannot be tested as described. The message says what to change."""


@dataclass(frozen=True, slots=True)
class Keys:
    """API keys. `first` and `second` belong to different tenants.

    `revoked` was valid once. `limited` is a key whose rate limit the suite may exhaust. `leaving` belongs to the first
    tenant; the hook `admit` adds it to the server's keys and `revoke` removes it.
    """

    first: str = ""
    second: str | None = None
    revoked: str | None = None
    limited: str | None = None
    leaving: str | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """All keys. The server must never return any of them."""
        return tuple(key for key in astuple(self) if key)


@dataclass(frozen=True, slots=True)
class Approval:
    """How to get a tool call that needs approval: the fields to create a session with, and the call.

    By default the suite registers a callback tool if the server declares `approval_timeout`, and otherwise calls `shell`
    or `write_file` in a session with the plugin `human_approval`.
    """

    session: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tool: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Limits:
    """The server's limits, if they differ from the protocol's defaults. Sizes in bytes, times in ms."""

    body_bytes: int = 1024 * 1024
    header_bytes: int = 32 * 1024
    header_fields: int = 100
    url_bytes: int = 8 * 1024
    header_timeout_ms: int = 10_000
    body_timeout_ms: int = 30_000
    queued_prompts: int = 100
    ws_message_bytes: int = 1024 * 1024
    heartbeat_ms: int = 30_000
    grace_ms: int = 30_000
    rpm: int | None = None


@dataclass(frozen=True, slots=True)
class Hooks:
    """Shell commands that control the server.

    `start` waits until the previous process has exited, then starts the server. `kill` sends SIGKILL, `stop` SIGTERM.
    `admit` and `revoke` add and remove the key `leaving` while the server is running.
    """

    start: str | None = None
    stop: str | None = None
    kill: str | None = None
    restart: str | None = None
    admit: str | None = None
    revoke: str | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """`deadline` is how long, in seconds, the suite waits for one thing; `scale` multiplies it."""

    scale: float = 1.0
    deadline: float = 10.0

    @property
    def seconds(self) -> float:
        return self.deadline * self.scale


@dataclass(frozen=True, slots=True)
class Target:
    """A server at a URL.

    `driver` selects the language model: `scripted` (inside the server), `model` (served by the suite at `model_listen`;
    the operator has mapped the name `model` to it) or `live` (any real model). `callback_host` is the host name under
    which the server reaches the suite's callback tools. `capabilities` replaces what the server declares. `limited_url`
    is the same server with a low rate limit, used with `keys.limited`; `trimmed_url` is one that keeps few events.
    """

    url: str
    keys: Keys = field(default_factory=Keys)
    driver: Driver = "auto"
    model: str | None = None
    model_listen: str = "127.0.0.1:0"
    callback_host: str = "127.0.0.1"
    capabilities: tuple[str, ...] | None = None
    limited_url: str | None = None
    trimmed_url: str | None = None
    origin: str | None = None
    approval: Approval = field(default_factory=Approval)
    limits: Limits = field(default_factory=Limits)
    hooks: Hooks = field(default_factory=Hooks)
    timing: Timing = field(default_factory=Timing)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a target file. Raises TargetError."""
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise TargetError(f"the target file {path} cannot be read: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise TargetError(f"the target file {path} is not TOML: {error}") from None
        return cls.parse(table, str(path))

    @classmethod
    def parse(cls, table: Mapping[str, Any], where: str = "the target") -> Self:
        """Parse the tables of a target file. Raises TargetError."""
        unknown = [name for name in table if name not in ("target", *_SECTIONS)]
        if unknown:
            raise TargetError(f"{where}: unknown section [{unknown[0]}]; known are target, {', '.join(_SECTIONS)}")
        sections = {name: _section(kind, table.get(name, {}), f"{where}: [{name}]") for name, kind in _SECTIONS.items()}
        own = {**_table(table.get("target", {}), f"{where}: [target]")}
        if "capabilities" in own:
            own["capabilities"] = _strings(own["capabilities"], f"{where}: [target] capabilities")
        return _section(cls, own, f"{where}: [target]", **sections)

    def with_options(self, *, url: str | None, key: str | None, second_key: str | None) -> Self:
        """Return this target with the options of the command line applied. Raises TargetError."""
        keys = replace(self.keys, first=key or self.keys.first, second=second_key or self.keys.second)
        return replace(self, url=url or self.url, keys=keys).checked()

    def checked(self) -> Self:
        """Validate the target; strip a trailing slash from its URL. Raises TargetError."""
        if not self.url:
            raise TargetError("no server given: pass --url, or set `url` in [target] of a target file")
        if not self.keys.first:
            raise TargetError("no API key given: pass --key, or set `first` in [keys] of a target file")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TargetError(f"{self.url!r} is not a server URL; expected something like http://127.0.0.1:4000")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise TargetError("the server URL must not contain credentials, a query or a fragment")
        if self.driver not in get_args(Driver):
            raise TargetError(f"unknown driver {self.driver!r}; known are {', '.join(get_args(Driver))}")
        if self.driver in ("model", "live") and not self.model:
            raise TargetError(
                f"the driver {self.driver!r} needs `model` in [target], the name under which the server knows it"
            )
        if self.timing.scale <= 0 or self.timing.deadline <= 0:
            raise TargetError("[timing]: scale and deadline must be greater than 0")
        for key in self.keys.secrets:
            if not key.isascii() or not key.isprintable() or " " in key:
                raise TargetError("an API key must consist of visible ASCII characters")
        return replace(self, url=self.url.rstrip("/"))


_SECTIONS: Final[Mapping[str, type]] = {
    "keys": Keys,
    "approval": Approval,
    "limits": Limits,
    "hooks": Hooks,
    "timing": Timing,
}


def _section(kind: type[Any], values: Any, where: str, **more: Any) -> Any:
    table = _table(values, where)
    hints = get_type_hints(kind)
    known = [each.name for each in fields(kind) if each.name not in _SECTIONS or kind is not Target]
    for name, value in table.items():
        if name not in known:
            raise TargetError(f"{where}: unknown setting {name!r}; known are {', '.join(known)}")
        if not _has_type(value, hints[name]):
            raise TargetError(f"{where} {name}: {value!r} is not {_TYPE_NAMES.get(hints[name], 'of its type')}")
    if kind is Target:
        table = {"url": "", **table}
    return kind(**table, **more)


_TYPE_NAMES: Final[Mapping[Any, str]] = {
    str: "a string",
    str | None: "a string",
    int: "a non-negative integer",
    int | None: "a non-negative integer",
    float: "a number",
    Mapping[str, Any]: "a table",
}


def _has_type(value: Any, hint: Any) -> bool:
    if hint in (str, str | None):
        return isinstance(value, str)
    if hint in (int, int | None):
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint == Mapping[str, Any]:
        return isinstance(value, dict)
    return True


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TargetError(f"{where} must be a table")
    return cast("dict[str, Any]", value)


def _strings(value: Any, where: str) -> tuple[str, ...]:
    items: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [None]
    if not all(isinstance(item, str) for item in items):
        raise TargetError(f"{where} must be a list of strings")
    return tuple(items)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What the suite knows about the server under test. `declared` is the body of GET /v1/capabilities, or None."""

    target: Target
    driver: Driver
    model: str
    features: frozenset[str]
    declared: Mapping[str, Any] | None
    extended: bool

    def limit(self, name: str, default: Any) -> Any:
        """A limit as the server declares it, or the default."""
        limits = (self.declared or {}).get("limits")
        value = limits.get(name) if isinstance(limits, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return default if value is None else value  # pyright: ignore[reportUnknownVariableType]
