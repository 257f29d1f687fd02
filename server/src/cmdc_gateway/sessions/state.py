"""The state of a session: `LiveState`, private to its actor, and `SessionSnapshot`, which everyone may read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from cmdc_gateway.kernel.budget import Budget, Spend
from cmdc_gateway.kernel.turn import Turn
from cmdc_gateway.protocol.history import Message
from cmdc_gateway.providers.provider import ModelRequest
from cmdc_gateway.sessions.services import Services
from cmdc_gateway.sessions.settings import SessionSettings, with_policy
from cmdc_gateway.sessions.toolset import BoundTool, Toolset
from cmdc_gateway.store.rows import ApprovalRow, QuestionRow, RequestRow, SessionKey, SessionRow, StoredSession, ToolRow
from cmdc_gateway.tenancy.meter import BudgetAccount
from cmdc_gateway.tools.callbacks.definition import CallbackDefinition
from cmdc_gateway.tools.callbacks.tool import CallbackTool
from cmdc_gateway.tools.plugin import find_tool
from cmdc_gateway.tools.schema import Parameters
from cmdc_gateway.tools.workspace import Workspace


@dataclass(frozen=True, slots=True)
class SessionSnapshot:
    """The committed state of a session."""

    row: SessionRow
    settings: SessionSettings
    toolset: Toolset
    queue: tuple[RequestRow, ...] = ()
    active: RequestRow | None = None
    newest_done: RequestRow | None = None
    approvals: tuple[ApprovalRow, ...] = ()
    questions: tuple[QuestionRow, ...] = ()
    blocked_on_user: bool = False


@dataclass(slots=True)
class LiveState:
    """The working state of a session, changed by its actor alone; discarded and reloaded when a commit fails.

    `bound` holds, by callId, the tools that approved calls are bound to.
    """

    row: SessionRow
    settings: SessionSettings
    toolset: Toolset
    account: BudgetAccount | None
    history: list[Message]
    queue: deque[RequestRow]
    position: int
    approvals: dict[str, ApprovalRow]
    questions: dict[str, QuestionRow]
    active: RequestRow | None = None
    newest_done: RequestRow | None = None
    turn: Turn | None = None
    bound: dict[str, BoundTool] = field(default_factory=dict[str, BoundTool])

    def snapshot(self) -> SessionSnapshot:
        return SessionSnapshot(
            row=self.row,
            settings=self.settings,
            toolset=self.toolset,
            queue=tuple(self.queue),
            active=self.active,
            newest_done=self.newest_done,
            approvals=tuple(self.approvals.values()),
            questions=tuple(self.questions.values()),
            blocked_on_user=self.turn is not None and self.turn.blocked_on_user,
        )

    def model_request(self) -> ModelRequest:
        """The request for the next model call."""
        settings = self.settings
        return ModelRequest(
            settings.model, tuple(self.history), self.toolset.specs(), settings.max_tokens, settings.options
        )


def restore(stored: StoredSession, services: Services) -> LiveState:
    """Build the live state from the stored session.

    Raises:
        NewerSettings: the settings were written by a newer version.
        ValueError, KeyError, TypeError: the stored data is damaged.
    """
    settings = with_policy(SessionSettings.decode(stored.row.settings), services.policy)
    active = next((row for row in stored.requests if row.status == "active"), None)
    done = next((row for row in stored.requests if row.status == "done"), None)
    return LiveState(
        row=stored.row,
        settings=settings,
        toolset=_toolset(stored.row.key, settings, stored.tools, services),
        account=_account(settings, stored.row),
        history=list(stored.messages),
        queue=deque(row for row in stored.requests if row.status == "queued"),
        position=stored.last_position,
        approvals={row.approval_id: row for row in stored.approvals},
        questions={row.ref: row for row in stored.questions},
        active=active,
        newest_done=done,
    )


def bind_callback(key: SessionKey, definition: CallbackDefinition, services: Services) -> BoundTool:
    """Bind a registered callback tool to this session."""
    tool = CallbackTool(definition, services.callbacks, key.session_id)
    return BoundTool(definition.spec, Parameters(definition.parameters), tool, definition)


def _toolset(key: SessionKey, settings: SessionSettings, registered: Iterable[ToolRow], services: Services) -> Toolset:
    workspace = Workspace(services.policy.workspace.root, settings.working_dir)
    builtins = [
        BoundTool(plugin.spec, Parameters(plugin.spec.parameters), plugin.create(workspace))
        for name in settings.tools
        # The package of a tool may have been uninstalled since the session was created.
        if (plugin := find_tool(name)) is not None
    ]
    callbacks = [bind_callback(key, CallbackDefinition.from_json(row.definition), services) for row in registered]
    return Toolset([*builtins, *callbacks], settings.approval)


def _account(settings: SessionSettings, row: SessionRow) -> BudgetAccount | None:
    if settings.budget_tokens is None and settings.budget_cost_usd is None:
        return None
    budget = Budget(settings.budget_tokens, settings.budget_cost_usd)
    return BudgetAccount("this session", budget.spend(Spend(row.usage.total_tokens, row.cost_usd)))
