"""One check, being made on one face: all that a scenario asks for, and where it tells what it has seen."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from cmdc_conformance.callbacks import SCHEMA, Behaviour, Callbacks, HostedTool
from cmdc_conformance.drivers import script
from cmdc_conformance.drivers.model import ScriptedModel, Told
from cmdc_conformance.findings import Blocked, Face, NotExercised
from cmdc_conformance.monitors import Event, Monitors
from cmdc_conformance.reader import Watch
from cmdc_conformance.session import Run, Session, SseSession, WsSession
from cmdc_conformance.target import Approval, Driver, Target
from cmdc_conformance.wire import Answer, Http, JsonObject


@dataclass(frozen=True, slots=True)
class Server:
    """What is known of the server that is judged. `declared` is what GET /v1/capabilities said, if there is one."""

    target: Target
    driver: Driver
    model: str
    features: frozenset[str]
    declared: Mapping[str, Any] | None
    extended: bool

    def limit(self, name: str, otherwise: Any) -> Any:
        """A limit as it is declared, or else as the target file has it."""
        limits = (self.declared or {}).get("limits")
        value = limits.get(name) if isinstance(limits, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return otherwise if value is None else value  # pyright: ignore[reportUnknownVariableType]


@dataclass(slots=True)
class Suite:
    """What all checks of a run share."""

    server: Server
    monitors: Monitors
    callbacks: Callbacks
    model: ScriptedModel | None
    seed: int
    examples: int
    mark: str
    counter: int = field(default=0)


@dataclass(frozen=True, slots=True)
class WaitingCall:
    """A call that waits for a person. `hosted` is the suite's tool behind it, where there is one."""

    session: Session
    run: Run
    required: Event
    hosted: HostedTool | None

    @property
    def approval(self) -> str:
        return str(self.required.data.get("approvalId"))


@dataclass(frozen=True, slots=True)
class Held:
    """A run that stays where it is, until it is released."""

    session: Session
    run: Run
    tool: HostedTool
    text: str

    def release(self) -> None:
        """Let the run go on."""
        assert self.tool.gate is not None
        self.tool.gate.set()


class Case:
    """What one check is given."""

    def __init__(self, suite: Suite, face: Face, http: Http, name: str) -> None:
        self.suite = suite
        self.server = suite.server
        self.target = suite.server.target
        self.face = face
        self.http = http
        self.name = name
        self.requirement = name.partition(" ")[0]
        self.deadline = self.target.timing.seconds
        self.random = random.Random(f"{suite.seed} {name} {face}")  # noqa: S311 - it is to come again

    @property
    def watch(self) -> Watch:
        return self.http.watch

    @property
    def second(self) -> Http:
        """Another tenant. Raises NotExercised."""
        if not self.target.keys.second:
            raise NotExercised("needs a key of a second tenant: --second-key, or `second` in [keys]")
        return self.http.with_key(self.target.keys.second)

    @property
    def nobody(self) -> Http:
        """Somebody without a key."""
        return self.http.with_key(None)

    def has(self, *features: str) -> bool:
        """Whether the server declares these."""
        return all(feature in self.server.features for feature in features)

    def fresh(self, what: str = "") -> str:
        """A name that nothing else has."""
        self.suite.counter += 1
        return f"cmdc-{self.suite.mark}-{self.suite.counter}{f'-{what}' if what else ''}"

    # -- prompts -------------------------------------------------------------------------------------------------------

    def script(self, *replies: script.Reply, nonce: str | None = None) -> str:
        """A prompt whose model calls are answered so. Raises NotExercised where the model follows no script."""
        if self.server.driver == "live":
            raise NotExercised("a live model follows no script")
        return script.prompt(*replies, nonce=nonce or self.fresh())

    def plain(self, *text: str) -> str:
        """A prompt that is answered with this text, or, by a live model, with any."""
        if self.server.driver == "live":
            return f"Answer in one short sentence. ({self.fresh()})"
        return self.script(script.reply(*(text or ("Hello.",))))

    def told(self, nonce: str) -> list[Told]:
        """What the model was told. Raises NotExercised where that cannot be seen."""
        if self.suite.model is None or self.server.driver != "model":
            raise NotExercised('what a model is told is seen by the suite\'s own model alone: driver = "model"')
        return self.suite.model.told_for(nonce)

    # -- sessions ------------------------------------------------------------------------------------------------------

    def fields(self, **fields: Any) -> JsonObject:
        """The body that makes a session."""
        return {"model": self.server.model, **fields}

    async def create(self, by: Http | None = None, /, **fields: Any) -> Answer:
        """POST /v1/sessions."""
        return await (by or self.http).post("/v1/sessions", self.fields(**fields))

    @asynccontextmanager
    async def session(self, by: Http | None = None, /, **fields: Any) -> AsyncGenerator[Session]:
        """A session, driven by this check's face, and gone at the end. Raises Blocked if it cannot be made."""
        http = by or self.http
        if self.face.via == "sdk":
            async with self._by_client(http, fields) as session:
                yield session
            return
        created = await self.create(http, **fields)
        id_ = created.needed(201).get("sessionId")
        if not isinstance(id_, str):
            raise Blocked("POST /v1/sessions gave no sessionId")
        kind = WsSession if self.face.transport == "ws" else SseSession
        session = kind(id_, http, self.key_of(http, id_))
        try:
            yield session
        finally:
            await session.close()

    @asynccontextmanager
    async def _by_client(self, http: Http, fields: Mapping[str, Any]) -> AsyncGenerator[Session]:
        from cmdc_conformance import sdk  # noqa: PLC0415 - only where the client is installed

        async with sdk.client(http) as client:
            created = await sdk.create(client, http.patience, self.fields(**fields))
            id_ = str(created.needed(201)["sessionId"])
            kind = sdk.SdkWsSession if self.face.transport == "ws" else sdk.SdkSseSession
            key = self.key_of(http, id_)
            session = kind(id_, http, key, await sdk.found(client, id_))
            try:
                yield session
            finally:
                await session.close()

    def key_of(self, http: Http, session: str) -> str:
        """The name under which the monitors keep a session."""
        number = self.target.keys.secrets.index(http.key) if http.key in self.target.keys.secrets else -1
        return f"{http.url} {number} {session}"

    # -- tools ---------------------------------------------------------------------------------------------------------

    def tool(self, name: str, hosted: HostedTool | str, **members: Any) -> JsonObject:
        """The registration of a hosted tool."""
        url = hosted if isinstance(hosted, str) else hosted.url
        return {
            "name": name,
            "description": "The weather in a city.",
            "parameters": SCHEMA,
            "callbackUrl": url,
            **members,
        }

    async def register(
        self, session: Session, name: str = "get_weather", behave: Behaviour | None = None, **members: Any
    ) -> HostedTool:
        """Host a tool, and register it. Raises NotExercised if the server may not call the suite."""
        hosted = self.suite.callbacks.host(behave)
        answer = await session.register(self.tool(name, hosted, **members))
        if answer.status == 422:
            raise NotExercised(f"the server refuses the suite's tools: its operator has to allow {hosted.url[:40]}…")
        answer.needed(201)
        return hosted

    @asynccontextmanager
    async def held(
        self,
        session: Session,
        *,
        then: Sequence[script.Reply] = (),
        before: Sequence[str] = (),
        name: str = "wait_for_it",
    ) -> AsyncGenerator[Held]:
        """A run that is held open, inside a call of a tool of the suite, until it is released or this context is left."""
        hosted = await self.register(session, name, timeoutMs=300_000)  # it is released, and never given up
        hosted.gate = asyncio.Event()
        text = self.script(script.reply(*before, calls=[(name, {"city": "Oslo"})]), *(then or [script.reply("Done.")]))
        try:
            async with session.run(text) as run:
                await hosted.called(within=self.deadline)
                yield Held(session, run, hosted, text)
        finally:
            hosted.gate.set()

    @asynccontextmanager
    async def waiting_call(
        self, *, args: Mapping[str, Any] | None = None, then: Sequence[script.Reply] = (), **fields: Any
    ) -> AsyncGenerator[WaitingCall]:
        """A run whose call waits for a person. Raises NotExercised if the target does not say how to come to one."""
        own = self.target.approval
        hosted_one = own.tool is None and self.has("approval_timeout")
        if hosted_one:
            approval = Approval({"approval": {"tools": ["*"]}}, "get_weather", args or {"city": "Oslo"})
        else:
            approval = own if own.tool is not None else await self._guarded_builtin(own.session)
        tool = str(approval.tool)
        async with self.session(**{**approval.session, **fields}) as session:
            hosted = await self.register(session, tool) if hosted_one else None
            text = self.script(script.reply(calls=[(tool, approval.args)]), *then)
            async with session.run(text) as run:
                yield WaitingCall(session, run, await run.until("approval_required"), hosted)

    async def _guarded_builtin(self, more: Mapping[str, Any]) -> Approval:
        """A built-in tool that the server offers, and that waits under the plugin human_approval."""
        said = ""
        for tool, args in (
            ("shell", {"command": "echo conformance"}),
            ("write_file", {"path": "conformance.txt", "content": ""}),
        ):
            settings = {"tools": [tool], "plugins": ["human_approval"], **more}
            answer = await self.create(**settings)
            if answer.status == 201:
                await self.http.delete(f"/v1/sessions/{answer.body.get('sessionId')}")
                return Approval(settings, tool, args)
            said = answer.message
        raise NotExercised(f"no session whose calls need approval: {said} ([approval] in the target file)")

    @asynccontextmanager
    async def question(
        self, question: str = "Which colour?", options: Sequence[str] | None = ("red", "blue"), **fields: Any
    ) -> AsyncGenerator[tuple[Session, Run, Event]]:
        """A run that asks a person."""
        async with self.session(**{"tools": ["ask_user"], **fields}) as session:
            args = {"question": question, **({"options": [*options]} if options else {})}
            async with session.run(self.script(script.reply(calls=[("ask_user", args)]))) as run:
                yield session, run, await run.until("ask_user")
