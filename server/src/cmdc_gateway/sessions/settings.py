"""The settings of a session, and the server's policy for them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import JsonValue

from cmdc_gateway.errors import CreateFailed
from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.sessions import CreateSessionBody
from cmdc_gateway.providers.registry import ModelRegistry
from cmdc_gateway.tools.builtin import READ_ONLY
from cmdc_gateway.tools.plugin import canonical_name
from cmdc_gateway.tools.skills import skills_prompt
from cmdc_gateway.tools.workspace import Workspace, WorkspaceError

HUMAN_APPROVAL = "human_approval"
PLUGINS = (HUMAN_APPROVAL,)
APPROVED_BY_PLUGIN = ("shell", "write_file")

FORMAT = 1


class NewerSettings(Exception):
    """The stored settings were written by a newer version of this server."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """A session's settings with all defaults resolved. Times are in ms, costs in US dollars."""

    model: str
    system_prompt: str | None = None
    working_dir: str = "."
    tools: tuple[str, ...] = ()
    max_turns: int = 100
    max_tokens: int | None = None
    options: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    approval: tuple[str, ...] = ()
    approval_ms: int = 0
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    budget_tokens: int | None = None
    budget_cost_usd: float | None = None

    def encode(self) -> bytes:
        return dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def decode(cls, raw: bytes) -> SessionSettings:
        """Decode what `encode` returned.

        Raises:
            NewerSettings: a newer version of the server encoded it.
            ValueError, KeyError, TypeError: the bytes are damaged.
        """
        data: dict[str, Any] = json.loads(raw)
        if data.pop("format") > FORMAT:
            raise NewerSettings
        data["tools"], data["approval"] = tuple(data["tools"]), tuple(data["approval"])
        return cls(**data)


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """What a session may be created with. Tools in `requires_approval` need approval in every session."""

    models: ModelRegistry
    workspace: Workspace
    tools: tuple[str, ...] = (*READ_ONLY, "ask_user")
    requires_approval: tuple[str, ...] = ("shell",)
    blueprints: Mapping[str, CreateSessionBody] = field(default_factory=dict[str, CreateSessionBody])

    def resolve(self, body: CreateSessionBody) -> SessionSettings:
        """Apply the blueprint and the defaults, and check that everything requested is available.

        Raises:
            CreateFailed: a name is unknown or not enabled; the message lists the available ones.
            BadRequest: a provider option has an invalid value.
        """
        body = self._with_blueprint(body)
        if body.model is None:
            raise CreateFailed("model is required: set it in the request or use a blueprint that does")
        options = body.provider_opts or {}
        try:
            self.models.find(body.model)
            self.models.check_options(options)
            workspace = self.workspace.enter(body.working_dir or ".")
            skills = skills_prompt(workspace, body.skills_dirs or [])
        except WorkspaceError as error:
            raise CreateFailed(str(error)) from None
        approval = body.approval
        budget = body.budget
        return SessionSettings(
            model=body.model,
            system_prompt="\n\n".join(part for part in (body.system_prompt, skills) if part) or None,
            working_dir=workspace.cwd,
            tools=self._tools(body.tools or []),
            max_turns=body.max_turns or 100,
            max_tokens=body.max_tokens,
            options=options,
            approval=self._approval(approval.tools if approval else [], self._plugins(body.plugins or [])),
            approval_ms=approval.timeout_ms if approval else 0,
            metadata=body.metadata or {},
            budget_tokens=budget.max_tokens if budget else None,
            budget_cost_usd=budget.max_cost_usd if budget else None,
        )

    def _with_blueprint(self, body: CreateSessionBody) -> CreateSessionBody:
        if body.blueprint is None:
            return body
        blueprint = self.blueprints.get(body.blueprint)
        if blueprint is None:
            raise CreateFailed(_unknown("blueprint", body.blueprint, self.blueprints))
        return blueprint.model_copy(update={name: getattr(body, name) for name in body.model_fields_set})

    def _tools(self, names: Iterable[str]) -> tuple[str, ...]:
        tools: dict[str, None] = {}
        for name in names:
            canonical = canonical_name(name)
            if canonical is None or canonical not in self.tools:
                raise CreateFailed(_unknown("tool", name, self.tools))
            tools[canonical] = None
        return tuple(tools)

    def _plugins(self, names: Iterable[str]) -> tuple[str, ...]:
        for name in names:
            if name != HUMAN_APPROVAL and not name.endswith("HumanApproval"):
                raise CreateFailed(_unknown("plugin", name, PLUGINS))
        return (HUMAN_APPROVAL,) if names else ()

    def _approval(self, requested: Iterable[str], plugins: tuple[str, ...]) -> tuple[str, ...]:
        by_plugin = APPROVED_BY_PLUGIN if plugins else ()
        return tuple(
            dict.fromkeys((*self.requires_approval, *by_plugin, *(canonical_name(name) or name for name in requested)))
        )


def with_policy(settings: SessionSettings, policy: SessionPolicy) -> SessionSettings:
    """Add the tools that require approval by the operator's current policy to the stored settings."""
    return replace(settings, approval=tuple(dict.fromkeys((*settings.approval, *policy.requires_approval))))


def _unknown(kind: str, name: str, available: Iterable[str]) -> str:
    return f"unknown {kind} {name!r}; available: {', '.join(available) or 'none'}"
