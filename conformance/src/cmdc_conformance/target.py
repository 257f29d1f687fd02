"""The server that is judged, and all that the suite must be told of it: a TOML file and options of the command."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, Self, cast, get_args, get_type_hints
from urllib.parse import urlsplit

Driver = Literal["auto", "scripted", "model", "live"]


class TargetError(Exception):
    """The target cannot be judged as it is described; the sentence says what to do."""


@dataclass(frozen=True, slots=True)
class Keys:
    """API keys. `second` is of another tenant, `revoked` was valid once, `limited` is one whose rate may be used up.

    `leaving` is of the first tenant too: the command `admit` lets it in, and `revoke` takes it away.
    """

    first: str = ""
    second: str | None = None
    revoked: str | None = None
    limited: str | None = None
    leaving: str | None = None

    @property
    def secrets(self) -> tuple[str, ...]:
        """All of them: none may ever come out of the server."""
        return tuple(key for key in astuple(self) if key)


@dataclass(frozen=True, slots=True)
class Approval:
    """How to make a session in which a call waits for a person: fields of its creation, and a call that then waits.

    Left out, a callback tool of the suite is called where the server declares approvals of the session's own choosing,
    and otherwise `shell` or `write_file` under the plugin `human_approval`.
    """

    session: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tool: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Limits:
    """The server's limits, where they are not the protocol's. Sizes are bytes, times ms."""

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
    """Commands, for a shell: `start` waits for the end of the server before; `kill` is kill -9, `stop` SIGTERM.

    `admit` and `revoke` let the key `leaving` in and take it away, while the server runs.
    """

    start: str | None = None
    stop: str | None = None
    kill: str | None = None
    restart: str | None = None
    admit: str | None = None
    revoke: str | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """`scale` multiplies every deadline; `deadline` is how long one thing may take, in seconds, before that."""

    scale: float = 1.0
    deadline: float = 10.0

    @property
    def seconds(self) -> float:
        return self.deadline * self.scale


@dataclass(frozen=True, slots=True)
class Target:
    """A server at a URL.

    `driver` is what answers for the model: `scripted` in the server, `model` the suite's own on loopback, which the
    operator has mapped to the name `model`, or `live` for one that does as it likes. `model_listen` is where the suite's
    own listens; `callback_host` is under which name the server reaches the suite. `capabilities` replaces what the
    server declares, `limited_url` is the same server with a rate limit that can be reached (then with `keys.limited`).
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
        """The target of this file. Raises TargetError."""
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as flaw:
            raise TargetError(f"the target file {path} cannot be read: {flaw}") from None
        except tomllib.TOMLDecodeError as flaw:
            raise TargetError(f"the target file {path} is not TOML: {flaw}") from None
        return cls.parse(table, str(path))

    @classmethod
    def parse(cls, table: Mapping[str, Any], where: str = "the target") -> Self:
        """The target of these tables. Raises TargetError."""
        unknown = [name for name in table if name not in ("target", *_SECTIONS)]
        if unknown:
            raise TargetError(f"{where}: there is no section [{unknown[0]}]; there are {', '.join(_SECTIONS)}")
        sections = {name: _section(kind, table.get(name, {}), f"{where}: [{name}]") for name, kind in _SECTIONS.items()}
        own = {**_table(table.get("target", {}), f"{where}: [target]")}
        if "capabilities" in own:
            own["capabilities"] = _strings(own["capabilities"], f"{where}: [target] capabilities")
        return _section(cls, own, f"{where}: [target]", **sections)

    def with_options(self, *, url: str | None, key: str | None, second_key: str | None) -> Self:
        """This target with what the command line says. Raises TargetError."""
        keys = replace(self.keys, first=key or self.keys.first, second=second_key or self.keys.second)
        return replace(self, url=url or self.url, keys=keys).checked()

    def checked(self) -> Self:
        """This target without a slash at the end of its URL. Raises TargetError."""
        if not self.url:
            raise TargetError("no server is named: give --url, or `url` in the [target] of a target file")
        if not self.keys.first:
            raise TargetError("no API key is given: give --key, or `first` in the [keys] of a target file")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TargetError(f"{self.url!r} is not the URL of a server: it should look like http://127.0.0.1:4000")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise TargetError("the URL of the server is its address alone: leave out user, query and fragment")
        if self.driver not in get_args(Driver):
            raise TargetError(f"there is no driver {self.driver!r}: there are {', '.join(get_args(Driver))}")
        if self.driver in ("model", "live") and not self.model:
            raise TargetError(f"the driver {self.driver!r} needs `model` in [target]: the name the server has for it")
        if self.timing.scale <= 0 or self.timing.deadline <= 0:
            raise TargetError("[timing] scale and deadline are greater than 0")
        for key in self.keys.secrets:
            if not key.isascii() or not key.isprintable() or " " in key:
                raise TargetError("an API key is visible ASCII")
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
    offered = [each.name for each in fields(kind) if each.name not in _SECTIONS or kind is not Target]
    for name, value in table.items():
        if name not in offered:
            raise TargetError(f"{where}: there is no {name!r}; there are {', '.join(offered)}")
        if not _fits(value, hints[name]):
            raise TargetError(f"{where} {name}: {value!r} is not {_SAID.get(hints[name], 'of its type')}")
    if kind is Target:
        table = {"url": "", **table}
    return kind(**table, **more)


_SAID: Final[Mapping[Any, str]] = {
    str: "a string",
    str | None: "a string",
    int: "a whole number",
    int | None: "a whole number",
    float: "a number",
    Mapping[str, Any]: "a table",
}


def _fits(value: Any, hint: Any) -> bool:
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
        raise TargetError(f"{where} is a table")
    return cast("dict[str, Any]", value)


def _strings(value: Any, where: str) -> tuple[str, ...]:
    items: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [None]
    if not all(isinstance(item, str) for item in items):
        raise TargetError(f"{where}: a list of strings is expected")
    return tuple(items)
