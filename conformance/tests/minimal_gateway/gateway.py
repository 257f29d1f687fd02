"""The routes: authentication, requests and responses."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from math import ceil
from pathlib import Path
from typing import Any

from minimal_gateway import bodies
from minimal_gateway.callbacks import Callbacks
from minimal_gateway.errors import ApiError, bad_request
from minimal_gateway.http1 import Request
from minimal_gateway.script import Attempts
from minimal_gateway.sessions import Session, Settings
from minimal_gateway.strict_json import read_object
from minimal_gateway.tools import Workspace, resolve_tool

CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "retry-after",
}
_PREFLIGHT = {
    **CORS,
    "Access-Control-Allow-Methods": "GET, POST, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "content-type, x-api-key, authorization, last-event-id, idempotency-key",
    "Access-Control-Max-Age": "600",
}
_OPTIONS = ("temperature", "top_p", "seed", "stop", "reasoning_effort", "tool_choice")
_SESSION = r"/v1/sessions/([^/]+)"

Result = tuple[int, object]


@dataclass(slots=True)
class Bucket:
    """A token bucket that refills within `seconds`."""

    size: int
    seconds: float
    tokens: float = field(init=False)
    at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.tokens = self.size

    def take(self) -> float:
        """Take a token; return the seconds until one is available, or 0."""
        now, rate = time.monotonic(), self.size / self.seconds
        self.tokens, self.at = min(self.size, self.tokens + (now - self.at) * rate), now
        if self.tokens < 1:
            return (1 - self.tokens) / rate
        self.tokens -= 1
        return 0.0


class Gateway:
    """All state, in memory."""

    def __init__(self, keys: dict[str, str], workspace: Path, *, rpm: int, callback_allow: list[str]) -> None:
        self.draining = False
        self.sessions: dict[tuple[str, str], Session] = {}
        self._keys = keys
        self._workspace = Workspace(workspace)
        self._root = workspace.resolve()
        self._rpm = rpm
        self._buckets: dict[str, Bucket] = {}
        self._callbacks = Callbacks(callback_allow)
        self._attempts = Attempts()
        self._used: set[str] = set()
        self._routes: list[tuple[str, str, Callable[..., Result]]] = [
            ("GET", r"/healthz", self._health),
            ("POST", r"/v1/sessions", self._create),
            ("GET", _SESSION, self._info),
            ("DELETE", _SESSION, self._delete),
            ("POST", rf"{_SESSION}/(prompt|approve|reject|respond)", self._act),
            ("GET", rf"{_SESSION}/stats", self._stats),
            ("GET", rf"{_SESSION}/messages", self._messages),
            ("POST", rf"{_SESSION}/tools", self._register),
        ]

    # -- authentication ---------------------------------------------------------------------------------------------------

    def authenticate(self, request: Request, *, url_key: str | None = None) -> tuple[str, str]:
        """Authenticate a request and count it; return tenant and key (HTTP-7, HTTP-9). Raises ApiError."""
        scheme, _, token = (request.header("authorization") or "").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else url_key
        key = request.header("x-api-key") or bearer or ""
        tenant = self._keys.get(key)
        if tenant is None:
            raise ApiError("unauthorized", "a valid API key is needed", {"WWW-Authenticate": "Bearer"})
        self.count_request(key)
        return tenant, key

    def count_request(self, key: str) -> None:
        """Count a request against the key's rate limit. Raises ApiError."""
        self._used.add(key)
        if self._rpm:
            wait = self._buckets.setdefault(key, Bucket(self._rpm, 60)).take()
            if wait:
                seconds = max(1, ceil(wait))
                raise ApiError("rate_limited", "too many requests", {"Retry-After": str(seconds)}, retryAfter=seconds)

    def session(self, key: tuple[str, str]) -> Session:
        """A session of a tenant. Raises ApiError."""
        session = self.sessions.get(key)
        if session is None:
            raise ApiError("not_found", f"unknown session {key[1]!r}")
        return session

    # -- routes -----------------------------------------------------------------------------------------------------------

    async def respond(
        self, request: Request, body: Callable[[], Awaitable[bytes]]
    ) -> tuple[int, object, dict[str, str]]:
        """Handle a request that opens no stream; return status, body and headers. Raises ApiError."""
        if request.method == "OPTIONS" and request.header("access-control-request-method"):
            return 204, None, _PREFLIGHT
        tenant = self.authenticate(request)[0] if _needs_key(request) else ""
        self._check_route(request)
        sent = await body()
        for method, pattern, act in self._routes:
            found = re.fullmatch(pattern, request.path)
            if found and method == request.method:
                for name, _ in request.query:
                    raise bad_request(f"{name}: unknown parameter")
                payload = _parse(request, sent) if method == "POST" else {}
                names = found.groups()
                status, value = act(payload, *([(tenant, names[0])] if names else [tenant]), *names[1:])
                return status, value, {}
        raise AssertionError("_check_route found the route")

    def _check_route(self, request: Request) -> None:
        patterns = [*((method, pattern) for method, pattern, _ in self._routes), ("GET", f"{_SESSION}/(?:events|ws)")]
        methods = sorted({method for method, pattern in patterns if re.fullmatch(pattern, request.path)})
        if not methods:
            raise ApiError("not_found", f"unknown path: {request.method} {request.path}")
        if request.method not in methods:
            allowed = ", ".join(methods)
            sentence = f"{request.path} allows {allowed}, not {request.method}"
            raise ApiError("method_not_allowed", sentence, {"Allow": allowed})

    def _health(self, _: dict[str, Any], __: str) -> Result:
        return 200, {
            "status": "ok",
            "version": "0.1.0",
            "sessions": {"active": len(self.sessions)},
            "meter": {"tracked_keys": len(self._used)},
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }

    def _create(self, payload: dict[str, Any], tenant: str) -> Result:
        optional = tuple(name for name in bodies.SESSION if name != "model")
        bodies.check(payload, bodies.SESSION, optional=(*optional, "model") if "blueprint" in payload else optional)
        if self.draining:
            raise ApiError("unavailable", "the server is stopping", {"Retry-After": "5"})
        settings = self._settings(payload)
        name = payload.get("sessionId") or secrets.token_hex(16)
        if (tenant, name) in self.sessions:
            raise ApiError("session_exists", f"the session {name!r} exists")
        self.sessions[tenant, name] = Session(
            name, settings, attempts=self._attempts, callbacks=self._callbacks, workspace=self._workspace
        )
        return 201, {"sessionId": name, "status": "created"}

    def _settings(self, payload: dict[str, Any]) -> Settings:
        if "blueprint" in payload:
            raise ApiError("create_failed", "this server has no blueprints")
        if not re.fullmatch(r"scripted:.+", payload["model"]):
            raise ApiError("create_failed", f"unknown model {payload['model']!r}; available: scripted:*")
        for option in payload.get("providerOpts", {}):
            if option not in _OPTIONS:
                raise ApiError("create_failed", f"unknown option {option!r}; available: {', '.join(_OPTIONS)}")
        for plugin in payload.get("plugins", []):
            if plugin != "human_approval" and not plugin.endswith("HumanApproval"):
                raise ApiError("create_failed", f"unknown plugin {plugin!r}; available: human_approval")
        try:
            folder = self._workspace.inside(payload.get("workingDir", "."))
            skills = [
                _skill(file, self._root)
                for name in payload.get("skillsDirs", [])
                for file in self._skills(name, folder)
            ]
        except (OSError, ValueError) as error:
            raise ApiError("create_failed", f"cannot use a folder: {error}") from None
        if not folder.is_dir():
            raise ApiError("create_failed", "workingDir: not a folder in the workspace")
        return Settings(
            model=payload["model"],
            folder=folder,
            tools=tuple(resolve_tool(name) for name in payload.get("tools", [])),
            needs_approval=bool(payload.get("plugins")),
            max_turns=payload.get("maxTurns", 100),
            system_prompt="\n".join(part for part in (payload.get("systemPrompt", ""), *skills) if part),
        )

    def _skills(self, name: str, folder: Path) -> list[Path]:
        place = self._workspace.inside(name, folder)
        if not place.is_dir():
            raise ValueError("not a folder of skills")
        return sorted(place.glob("*/SKILL.md"))

    def _info(self, _: dict[str, Any], key: tuple[str, str]) -> Result:
        return 200, self.session(key).info()

    def _stats(self, _: dict[str, Any], key: tuple[str, str]) -> Result:
        return 200, self.session(key).stats()

    def _delete(self, _: dict[str, Any], key: tuple[str, str]) -> Result:
        self.session(key).delete()
        del self.sessions[key]
        return 200, {"sessionId": key[1], "status": "deleted"}

    def _act(self, payload: dict[str, Any], key: tuple[str, str], action: str) -> Result:
        return act(self.session(key), action, payload)

    def _messages(self, _: dict[str, Any], key: tuple[str, str]) -> Result:
        return 200, {"sessionId": key[1], "messages": self.session(key).messages}

    def _register(self, payload: dict[str, Any], key: tuple[str, str]) -> Result:
        session = self.session(key)
        return 201, session.register(bodies.check(payload, bodies.TOOL, optional=("timeoutMs",)))


def act(session: Session, action: str, payload: dict[str, Any]) -> Result:
    """Execute an action of HTTP or WebSocket. It never waits, so its response precedes the events that it causes."""
    match action:
        case "prompt":
            return 202, session.prompt(bodies.check(payload, bodies.PROMPT)["text"])
        case "respond":
            sent = bodies.check(payload, bodies.RESPONSE)
            return 200, session.respond(sent["ref"], sent["response"])
        case "approve" | "reject":
            return 200, session.decide(action, bodies.check(payload, bodies.DECISION)["approvalId"])
        case _:
            raise bad_request("action: must be prompt, approve, reject or respond")


def _needs_key(request: Request) -> bool:
    return (request.method, request.path) != ("GET", "/healthz")


def _parse(request: Request, raw: bytes) -> dict[str, Any]:
    header = Message()
    header["Content-Type"] = request.header("content-type") or "none/none"
    if header.get_content_type() != "application/json" or header.get_content_charset("utf-8") not in ("utf-8", "utf8"):
        raise ApiError("unsupported_media_type", "a body must be application/json in UTF-8")
    return read_object(raw)


def _skill(file: Path, root: Path) -> str:
    """The line of a skill in the system prompt, from its front matter."""
    text = file.read_text()
    front = text.split("---")[1] if text.startswith("---") else ""
    found = dict(re.findall(r"^(name|description):[ \t]*(.*)$", front, re.MULTILINE))
    return f"- {found.get('name', file.parent.name)}: {found.get('description', '')} ({file.relative_to(root)})"
