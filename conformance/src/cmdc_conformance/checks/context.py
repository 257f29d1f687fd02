"""What a check works with: the server, sessions, prompts, callback tools and the states that checks start from."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from cmdc_conformance.drivers import script
from cmdc_conformance.drivers.callbacks import SCHEMA, Behavior, Callbacks, HostedTool
from cmdc_conformance.drivers.model import ModelRequest, ScriptedModel
from cmdc_conformance.drivers.session import Run, Session, SseSession, WsSession
from cmdc_conformance.findings import Blocked, NotExercised, Variant
from cmdc_conformance.target import Approval, ServerInfo
from cmdc_conformance.wire.event import Event
from cmdc_conformance.wire.http import ApiClient, ApiResponse, JsonObject
from cmdc_conformance.wire.monitors import Monitors
from cmdc_conformance.wire.reader import Observer


@dataclass(slots=True)
class RunState:
    """What all checks of a suite run share.

    `mark` makes the names of this run unique on the server. `resources` is closed at the end of the run.
    """

    server: ServerInfo
    monitors: Monitors
    callbacks: Callbacks
    model: ScriptedModel | None
    seed: int
    examples: int
    mark: str
    resources: AsyncExitStack
    counter: int = field(default=0)
    sdk_clients: dict[tuple[str, str | None], Any] = field(default_factory=dict[tuple[str, str | None], Any])


@dataclass(frozen=True, slots=True)
class PendingApproval:
    """A tool call that waits for approval. `hosted` is the suite's callback tool, if the call is for one."""

    session: Session
    run: Run
    required: Event
    hosted: HostedTool | None

    @property
    def id(self) -> str:
        return str(self.required.data.get("approvalId"))


@dataclass(frozen=True, slots=True)
class PausedRun:
    """A run that is inside a call of a callback tool until it is released. `text` is its prompt."""

    session: Session
    run: Run
    tool: HostedTool
    text: str

    def release(self) -> None:
        """Let the tool return."""
        assert self.tool.gate is not None
        self.tool.gate.set()


class CheckContext:
    """What one check in one variant works with. `name` is "requirement check", `deadline` is in seconds."""

    def __init__(self, run_state: RunState, variant: Variant, http: ApiClient, name: str) -> None:
        self.run_state = run_state
        self.server = run_state.server
        self.target = run_state.server.target
        self.variant = variant
        self.http = http
        self.name = name
        self.requirement = name.partition(" ")[0]
        self.deadline = self.target.timing.seconds
        self.random = random.Random(f"{run_state.seed} {name} {variant}")  # noqa: S311 - reproducible by its seed

    @property
    def observer(self) -> Observer:
        return self.http.observer

    @property
    def second_tenant(self) -> ApiClient:
        """A client with another tenant's key. Raises NotExercised."""
        if not self.target.keys.second:
            raise NotExercised("needs the key of a second tenant: --second-key, or `second` in [keys]")
        return self.http.with_key(self.target.keys.second)

    @property
    def anonymous(self) -> ApiClient:
        """A client without a key."""
        return self.http.with_key(None)

    def has(self, *features: str) -> bool:
        """Whether the server declares all of these features."""
        return all(feature in self.server.features for feature in features)

    def unique(self, suffix: str = "") -> str:
        """A name that nothing else on the server has."""
        self.run_state.counter += 1
        return f"cmdc-{self.run_state.mark}-{self.run_state.counter}{f'-{suffix}' if suffix else ''}"

    # -- prompts -------------------------------------------------------------------------------------------------------

    def script(self, *replies: script.Reply, nonce: str | None = None) -> str:
        """A prompt that makes the model give these replies. Raises NotExercised if the model follows no script."""
        if self.server.driver == "live":
            raise NotExercised("a live model follows no script")
        return script.prompt(*replies, nonce=nonce or self.unique())

    def simple_prompt(self, *text: str) -> str:
        """A prompt that the scripted model answers with this text, and a live model with any text."""
        if self.server.driver == "live":
            return f"Answer in one short sentence. ({self.unique()})"
        return self.script(script.reply(*(text or ("Hello.",))))

    def model_requests(self, nonce: str) -> list[ModelRequest]:
        """The requests that the model received for a script. Raises NotExercised unless the suite serves the model."""
        if self.run_state.model is None or self.server.driver != "model":
            raise NotExercised('needs the suite\'s own model, which records its requests: driver = "model"')
        return self.run_state.model.requests_for(nonce)

    # -- sessions ------------------------------------------------------------------------------------------------------

    def create_body(self, **fields: Any) -> JsonObject:
        """The body of a request that creates a session."""
        return {"model": self.server.model, **fields}

    async def create(self, by: ApiClient | None = None, /, **fields: Any) -> ApiResponse:
        """POST /v1/sessions."""
        return await (by or self.http).post("/v1/sessions", self.create_body(**fields))

    @asynccontextmanager
    async def session(self, by: ApiClient | None = None, /, **fields: Any) -> AsyncGenerator[Session]:
        """A session in this check's variant, deleted on exit. Raises Blocked if it cannot be created."""
        http = by or self.http
        if self.variant.via == "sdk":
            async with self._sdk_session(http, fields) as session:
                yield session
            return
        created = await self.create(http, **fields)
        id_ = created.require(201).get("sessionId")
        if not isinstance(id_, str):
            raise Blocked("POST /v1/sessions returned no sessionId")
        kind = WsSession if self.variant.transport == "ws" else SseSession
        session = kind(id_, http, self.session_key(http, id_))
        try:
            yield session
        finally:
            await session.close()

    @asynccontextmanager
    async def _sdk_session(self, http: ApiClient, fields: Mapping[str, Any]) -> AsyncGenerator[Session]:
        from cmdc_conformance.drivers import sdk  # noqa: PLC0415 - the client is optional

        state = self.run_state
        client = state.sdk_clients.get((http.url, http.key))
        if client is None:
            client = state.sdk_clients[http.url, http.key] = sdk.client(http)
            await state.resources.enter_async_context(client)
        created = await sdk.create(client, http.backoff, self.create_body(**fields))
        id_ = str(created.require(201)["sessionId"])
        kind = sdk.SdkWsSession if self.variant.transport == "ws" else sdk.SdkSseSession
        session = kind(id_, http, self.session_key(http, id_), await sdk.get_session(client, id_))
        try:
            yield session
        finally:
            await session.close()

    def session_key(self, http: ApiClient, session: str) -> str:
        """The key of a session in the monitors: unique per server, tenant and session."""
        number = self.target.keys.secrets.index(http.key) if http.key in self.target.keys.secrets else -1
        return f"{http.url} {number} {session}"

    async def ticket(self, path: str, scope: str = "read") -> str:
        """A new ticket for the session at this path. Raises Blocked."""
        return str((await self.http.post(f"{path}/tickets", {"scope": scope}, secret=True)).require(201)["ticket"])

    # -- tools ---------------------------------------------------------------------------------------------------------

    def tool(self, name: str, hosted: HostedTool | str, **members: Any) -> JsonObject:
        """The body of a request that registers a hosted tool, or a tool at any URL."""
        url = hosted if isinstance(hosted, str) else hosted.url
        return {
            "name": name,
            "description": "The weather in a city.",
            "parameters": SCHEMA,
            "callbackUrl": url,
            **members,
        }

    async def register(
        self, session: Session, name: str = "get_weather", behavior: Behavior | None = None, **members: Any
    ) -> HostedTool:
        """Host a tool and register it. Raises NotExercised if the server may not call the suite."""
        hosted = self.run_state.callbacks.host(behavior)
        response = await session.register(self.tool(name, hosted, **members))
        if response.status == 422:
            raise NotExercised(
                f"the server rejects the suite's callback URL; its operator has to allow {hosted.url[:40]}…"
            )
        response.require(201)
        return hosted

    # -- starting states -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def paused_run(
        self,
        session: Session,
        *,
        then: Sequence[script.Reply] = (),
        before: Sequence[str] = (),
        name: str = "wait_for_it",
    ) -> AsyncGenerator[PausedRun]:
        """A run that is inside a tool call until it is released or the context exits.

        The model says `before` ahead of the call and replies with `then` after it.
        """
        hosted = await self.register(session, name, timeoutMs=300_000)  # the longest allowed: the run must not time out
        hosted.gate = asyncio.Event()
        text = self.script(script.reply(*before, calls=[(name, {"city": "Oslo"})]), *(then or [script.reply("Done.")]))
        try:
            async with session.run(text) as run:
                await hosted.wait_for_calls(within=self.deadline)
                yield PausedRun(session, run, hosted, text)
        finally:
            hosted.gate.set()

    @asynccontextmanager
    async def pending_approval(
        self, *, args: Mapping[str, Any] | None = None, then: Sequence[script.Reply] = (), **fields: Any
    ) -> AsyncGenerator[PendingApproval]:
        """A run with a call that waits for approval. Raises NotExercised if the suite finds no way to provoke one."""
        own = self.target.approval
        uses_callback = own.tool is None and self.has("approval_timeout")
        if uses_callback:
            approval = Approval({"approval": {"tools": ["*"]}}, "get_weather", args or {"city": "Oslo"})
        else:
            approval = own if own.tool is not None else await self._builtin_approval(own.session)
        tool = str(approval.tool)
        async with self.session(**{**approval.session, **fields}) as session:
            hosted = await self.register(session, tool) if uses_callback else None
            text = self.script(script.reply(calls=[(tool, approval.args)]), *then)
            async with session.run(text) as run:
                yield PendingApproval(session, run, await run.wait_for("approval_required"), hosted)

    async def _builtin_approval(self, fields: Mapping[str, Any]) -> Approval:
        """A built-in tool that needs approval under the plugin human_approval."""
        message = ""
        for tool, args in (
            ("shell", {"command": "echo conformance"}),
            ("write_file", {"path": "conformance.txt", "content": ""}),
        ):
            settings = {"tools": [tool], "plugins": ["human_approval"], **fields}
            response = await self.create(**settings)
            if response.status == 201:
                await self.http.delete(f"/v1/sessions/{response.body.get('sessionId')}")
                return Approval(settings, tool, args)
            message = response.message
        raise NotExercised(
            f"needs a session whose calls require approval, see [approval] in the target file: {message}"
        )

    @asynccontextmanager
    async def pending_question(
        self, question: str = "Which colour?", options: Sequence[str] | None = ("red", "blue"), **fields: Any
    ) -> AsyncGenerator[tuple[Session, Run, Event]]:
        """A run that has asked the user a question: the session, the run and the event ask_user."""
        async with self.session(**{"tools": ["ask_user"], **fields}) as session:
            args = {"question": question, **({"options": [*options]} if options else {})}
            async with session.run(self.script(script.reply(calls=[("ask_user", args)]))) as run:
                yield session, run, await run.wait_for("ask_user")
