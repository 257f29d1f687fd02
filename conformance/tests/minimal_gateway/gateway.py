"""The routes: who asks, what for, and what is answered."""

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
from minimal_gateway.http1 import Request
from minimal_gateway.refusals import Refusal, wrong
from minimal_gateway.script import Tries
from minimal_gateway.sessions import Session, Settings
from minimal_gateway.strict_json import read_object
from minimal_gateway.tools import Workspace, offered

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

Answer = tuple[int, object]


@dataclass(slots=True)
class Bucket:
    """A token bucket, filled again within a minute."""

    size: int
    seconds: float
    tokens: float = field(init=False)
    at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.tokens = self.size

    def take(self) -> float:
        """Spend a token, or say how many seconds are missing."""
        now, rate = time.monotonic(), self.size / self.seconds
        self.tokens, self.at = min(self.size, self.tokens + (now - self.at) * rate), now
        if self.tokens < 1:
            return (1 - self.tokens) / rate
        self.tokens -= 1
        return 0.0


class Gateway:
    """Everything there is, in memory."""

    def __init__(self, keys: dict[str, str], workspace: Path, *, rpm: int, callback_allow: list[str]) -> None:
        self.draining = False
        self.sessions: dict[tuple[str, str], Session] = {}
        self._keys = keys
        self._workspace = Workspace(workspace)
        self._root = workspace.resolve()
        self._rpm = rpm
        self._buckets: dict[str, Bucket] = {}
        self._callbacks = Callbacks(callback_allow)
        self._tries = Tries()
        self._used: set[str] = set()
        self._routes: list[tuple[str, str, Callable[..., Answer]]] = [
            ("GET", r"/healthz", self._health),
            ("POST", r"/v1/sessions", self._create),
            ("GET", _SESSION, self._info),
            ("DELETE", _SESSION, self._delete),
            ("POST", rf"{_SESSION}/(prompt|approve|reject|respond)", self._act),
            ("GET", rf"{_SESSION}/stats", self._stats),
            ("GET", rf"{_SESSION}/messages", self._messages),
            ("POST", rf"{_SESSION}/tools", self._register),
        ]

    # -- who asks ------------------------------------------------------------------------------------------------------

    def admit(self, request: Request, *, url_key: str | None = None) -> tuple[str, str]:
        """The tenant that asks, and its key; one request is counted (HTTP-7, HTTP-9). Raises Refusal."""
        scheme, _, token = (request.header("authorization") or "").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else url_key
        key = request.header("x-api-key") or bearer or ""
        tenant = self._keys.get(key)
        if tenant is None:
            raise Refusal("unauthorized", "a valid API key is needed", {"WWW-Authenticate": "Bearer"})
        self.spend(key)
        return tenant, key

    def spend(self, key: str) -> None:
        """Count one request of this key. Raises Refusal."""
        self._used.add(key)
        if self._rpm:
            wait = self._buckets.setdefault(key, Bucket(self._rpm, 60)).take()
            if wait:
                seconds = max(1, ceil(wait))
                raise Refusal("rate_limited", "too many requests", {"Retry-After": str(seconds)}, retryAfter=seconds)

    def session(self, key: tuple[str, str]) -> Session:
        """A session of this tenant. Raises Refusal."""
        session = self.sessions.get(key)
        if session is None:
            raise Refusal("not_found", f"there is no session {key[1]!r}")
        return session

    # -- what for ------------------------------------------------------------------------------------------------------

    async def answer(
        self, request: Request, body: Callable[[], Awaitable[bytes]]
    ) -> tuple[int, object, dict[str, str]]:
        """What is answered to a request that opens no stream. Raises Refusal."""
        if request.method == "OPTIONS" and request.header("access-control-request-method"):
            return 204, None, _PREFLIGHT
        tenant = self.admit(request)[0] if _is_guarded(request.path) else ""
        self._check_route(request)
        sent = await body()
        for method, pattern, act in self._routes:
            found = re.fullmatch(pattern, request.path)
            if found and method == request.method:
                for name, _ in request.query:
                    raise wrong(f"{name}: there is no such parameter")
                given = _parsed(request, sent) if method == "POST" else {}
                names = found.groups()
                status, value = act(given, *([(tenant, names[0])] if names else [tenant]), *names[1:])
                return status, value, {}
        raise AssertionError("the route was found before")

    def _check_route(self, request: Request) -> None:
        patterns = [*((method, pattern) for method, pattern, _ in self._routes), ("GET", f"{_SESSION}/(?:events|ws)")]
        methods = sorted({method for method, pattern in patterns if re.fullmatch(pattern, request.path)})
        if not methods:
            raise Refusal("not_found", f"there is nothing at {request.method} {request.path}")
        if request.method not in methods:
            allowed = ", ".join(methods)
            sentence = f"{request.path} has {allowed}, not {request.method}"
            raise Refusal("method_not_allowed", sentence, {"Allow": allowed})

    def _health(self, _: dict[str, Any], __: str) -> Answer:
        return 200, {
            "status": "ok",
            "version": "0.1.0",
            "sessions": {"active": len(self.sessions)},
            "meter": {"tracked_keys": len(self._used)},
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }

    def _create(self, given: dict[str, Any], tenant: str) -> Answer:
        optional = tuple(name for name in bodies.SESSION if name != "model")
        bodies.check(given, bodies.SESSION, optional=(*optional, "model") if "blueprint" in given else optional)
        if self.draining:
            raise Refusal("unavailable", "the server is stopping", {"Retry-After": "5"})
        settings = self._settings(given)
        name = given.get("sessionId") or secrets.token_hex(16)
        if (tenant, name) in self.sessions:
            raise Refusal("session_exists", f"there is a session {name!r} already")
        self.sessions[tenant, name] = Session(
            name, settings, tries=self._tries, callbacks=self._callbacks, workspace=self._workspace
        )
        return 201, {"sessionId": name, "status": "created"}

    def _settings(self, given: dict[str, Any]) -> Settings:
        if "blueprint" in given:
            raise Refusal("create_failed", "there are no blueprints here")
        if not re.fullmatch(r"scripted:.+", given["model"]):
            raise Refusal("create_failed", f"the model {given['model']!r} is not served; offered: scripted:*")
        for option in given.get("providerOpts", {}):
            if option not in _OPTIONS:
                raise Refusal("create_failed", f"there is no option {option!r}; offered: {', '.join(_OPTIONS)}")
        for plugin in given.get("plugins", []):
            if plugin != "human_approval" and not plugin.endswith("HumanApproval"):
                raise Refusal("create_failed", f"there is no plugin {plugin!r}; offered: human_approval")
        try:
            folder = self._workspace.inside(given.get("workingDir", "."))
            skills = [
                _skill(file, self._root) for name in given.get("skillsDirs", []) for file in self._skills(name, folder)
            ]
        except (OSError, ValueError) as flaw:
            raise Refusal("create_failed", f"a folder cannot be used: {flaw}") from None
        if not folder.is_dir():
            raise Refusal("create_failed", "workingDir: there is no such folder in the workspace")
        return Settings(
            model=given["model"],
            folder=folder,
            tools=tuple(offered(name) for name in given.get("tools", [])),
            asks_a_person=bool(given.get("plugins")),
            max_turns=given.get("maxTurns", 100),
            system_prompt="\n".join(part for part in (given.get("systemPrompt", ""), *skills) if part),
        )

    def _skills(self, name: str, folder: Path) -> list[Path]:
        place = self._workspace.inside(name, folder)
        if not place.is_dir():
            raise ValueError("there is no such folder of skills")
        return sorted(place.glob("*/SKILL.md"))

    def _info(self, _: dict[str, Any], key: tuple[str, str]) -> Answer:
        return 200, self.session(key).info()

    def _stats(self, _: dict[str, Any], key: tuple[str, str]) -> Answer:
        return 200, self.session(key).stats()

    def _delete(self, _: dict[str, Any], key: tuple[str, str]) -> Answer:
        self.session(key).delete()
        del self.sessions[key]
        return 200, {"sessionId": key[1], "status": "deleted"}

    def _act(self, given: dict[str, Any], key: tuple[str, str], action: str) -> Answer:
        return act(self.session(key), action, given)

    def _messages(self, _: dict[str, Any], key: tuple[str, str]) -> Answer:
        return 200, {"sessionId": key[1], "messages": self.session(key).messages}

    def _register(self, given: dict[str, Any], key: tuple[str, str]) -> Answer:
        session = self.session(key)
        return 201, session.register(bodies.check(given, bodies.TOOL, optional=("timeoutMs",)))


def act(session: Session, action: str, given: dict[str, Any]) -> Answer:
    """What HTTP and WebSocket have in common. Nothing here waits, so the answer is written before what it causes."""
    match action:
        case "prompt":
            return 202, session.prompt(bodies.check(given, bodies.PROMPT)["text"])
        case "respond":
            sent = bodies.check(given, bodies.RESPONSE)
            return 200, session.respond(sent["ref"], sent["response"])
        case "approve" | "reject":
            return 200, session.decide(action, bodies.check(given, bodies.DECISION)["approvalId"])
        case _:
            raise wrong("action: must be prompt, approve, reject or respond")


def _is_guarded(path: str) -> bool:
    return path == "/v1" or path.startswith("/v1/")


def _parsed(request: Request, raw: bytes) -> dict[str, Any]:
    header = Message()
    header["Content-Type"] = request.header("content-type") or "none/none"
    if header.get_content_type() != "application/json" or header.get_content_charset("utf-8") not in ("utf-8", "utf8"):
        raise Refusal("unsupported_media_type", "a body is sent as application/json, in UTF-8")
    return read_object(raw)


def _skill(file: Path, root: Path) -> str:
    """A skill's line in the system prompt, from its front matter."""
    text = file.read_text()
    front = text.split("---")[1] if text.startswith("---") else ""
    found = dict(re.findall(r"^(name|description):[ \t]*(.*)$", front, re.MULTILINE))
    return f"- {found.get('name', file.parent.name)}: {found.get('description', '')} ({file.relative_to(root)})"
