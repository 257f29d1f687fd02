"""Gateways that call tools wrongly (CB)."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false, reportPrivateUsage=false

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from cmdc_gateway.errors import RegistrationFailed
from cmdc_gateway.sessions.commands import SessionCommands
from cmdc_gateway.sessions.toolset import Toolset
from cmdc_gateway.tools import callback, registration, url
from cmdc_gateway.tools.addresses import AddressPolicy
from cmdc_gateway.tools.callback import CallbackClient, CallbackTool
from cmdc_gateway.tools.tool import ToolResult
from cmdc_gateway.web import actions, dependencies

from broken_gateways.mutant import breaks
from broken_gateways.surgery import after_waiting, change_arguments, wrap

# -- CB-1 --------------------------------------------------------------------------------------------------------------


@breaks("CB-1.registered")
def created_otherwise() -> None:
    """A tool that was registered is told by another name."""
    from broken_gateways.surgery import Answer, change_answers

    def change(answer: Answer) -> None:
        if answer.status == 201:
            answer.body["name"] = answer.body["name"].upper()

    change_answers(r"/v1/sessions/[^/]+/tools", change, method="POST")


@breaks("CB-1.fields", "HTTP-3.unknown-field")
def tool_without_a_description() -> None:
    """A tool without a description, or of more fields than are known, is registered."""

    def around(original: Any) -> Any:
        def validated(model: Any, data: dict[str, Any]) -> Any:
            if model.__name__ == "RegisterToolBody":
                known = {field.alias or name for name, field in model.model_fields.items()}
                data = {"description": "", **{name: value for name, value in data.items() if name in known}}
            return original(model, data)

        return validated

    wrap(dependencies, "validated", around)


@breaks("CB-1.values")
def any_name() -> None:
    """A tool may be called anything."""

    class Anything:
        def fullmatch(self, _: str) -> bool:
            return True

    wrap(registration, "_NAME", lambda _: Anything())


@breaks("CB-1.replaced", "CB-3.refused")
def first_come() -> None:
    """A tool that is registered again stays as it was."""

    def change(given: dict[str, Any]) -> None:
        present = given["self"]._actor.view.snapshot.toolset.get(given["definition"].name)
        if present is not None and present.definition is not None:
            given["definition"] = present.definition

    change_arguments(SessionCommands, "register", change)


@breaks("CB-1.running")
def too_late_for_this_run() -> None:
    """A tool that is registered during a run is not offered before the next."""

    def around(original: Any) -> Any:
        def flaw(self: Any, name: str, args: Any) -> Any:
            if name in getattr(self, "_too_late", ()):
                return f"this session has no tool {name!r}"
            return original(self, name, args)

        return flaw

    def with_callback(original: Any) -> Any:
        def changed(self: Any, tool: Any) -> Any:
            made = original(self, tool)
            made._too_late = {*getattr(self, "_too_late", ()), tool.spec.name}
            return made

        return changed

    def register(original: Any) -> Any:
        async def changed(self: Any, *args: Any) -> Any:
            idle = self._actor.view.snapshot.active is None
            reply = await original(self, *args)
            if idle:
                self._actor.view.snapshot.toolset._too_late = set()
            return reply

        return changed

    wrap(Toolset, "call_error", around)
    wrap(Toolset, "with_callback", with_callback)
    wrap(SessionCommands, "register", register)


@breaks("CB-1.approval")
def nobody_asked() -> None:
    """RequiresApproval is taken and not heeded."""

    def around(original: Any) -> Any:
        def needs_approval(self: Any, name: str) -> bool:
            tool = self._tools.get(name)
            if tool is not None and tool.spec.requires_approval:
                return name in self._approval
            return original(self, name)

        return needs_approval

    wrap(Toolset, "requires_approval", around)


# -- CB-2 --------------------------------------------------------------------------------------------------------------


@breaks("CB-2.call")
def call_without_its_session() -> None:
    """A call does not tell the session that it is of."""

    def around(original: Any) -> Any:
        def dumps(value: Any) -> bytes:
            if isinstance(value, dict) and "toolName" in value:
                value = {**value, "sessionId": "somewhere"}
            return original(value)

        return dumps

    wrap(callback, "dumps", around)


def _result(change: Any) -> None:
    """Change what is made of a tool's answer."""
    wrap(callback, "_result", change)


@breaks("CB-2.result")
def python_text() -> None:
    """A result that is not a string is passed on as the server's language writes it."""

    def around(original: Any) -> Any:
        def result(answer: bytes) -> ToolResult:
            found = original(answer)
            said = json.loads(answer)
            return found if isinstance(said.get("result", ""), str) else ToolResult("ok", repr(said["result"]))

        return result

    _result(around)


@breaks("CB-2.error")
def error_is_a_result() -> None:
    """An answer with error is taken for a result."""
    _result(lambda original: lambda answer: replace(original(answer), status="ok"))


@breaks("CB-2.validated", "EVT-1.bad-arguments")
def unchecked_arguments() -> None:
    """Arguments that the schema refuses leave the server all the same, before they are refused."""
    import asyncio

    from cmdc_gateway.protocol.history import ToolCall

    def around(original: Any) -> Any:
        def flaw(self: Any, name: str, args: Any) -> Any:
            found = original(self, name, args)
            fitting = self._tools.get(name)
            if found is not None and fitting is not None and isinstance(fitting.tool, CallbackTool):
                tool: Any = fitting.tool
                sent = tool._client.call(tool._definition, ToolCall("call_0", name, args), tool._session_id)
                asyncio.get_running_loop().create_task(sent)
            return found

        return flaw

    wrap(Toolset, "call_error", around)


# -- CB-3 --------------------------------------------------------------------------------------------------------------


def _failure(part: str, status: str = "ok") -> None:
    """Tell one failure of a call as a success."""

    def change(result: ToolResult) -> ToolResult:
        return replace(result, status=status) if part in result.result else result

    after_waiting(CallbackClient, "call", change)


@breaks("CB-3.timeout")
def late_is_fine() -> None:
    """A tool that does not answer in time is told as one that did."""
    _failure("did not answer within")


@breaks("CB-3.refused")
def unreachable_is_fine() -> None:
    """A tool that cannot be reached is told as one that answered."""
    _failure("refused or not answered")


@breaks("CB-3.status")
def any_status() -> None:
    """The body of a 500 is taken for the result."""

    def around(original: Any) -> Any:
        def check_status(status: int, place: Any) -> None:
            if status != 500:
                original(status, place)

        return check_status

    wrap(callback, "_check_status", around)


@breaks("CB-3.redirect")
def redirect_is_fine() -> None:
    """A redirect is told as a success."""
    _failure("answered with a redirect")


@breaks("CB-3.not-json")
def text_is_fine() -> None:
    """An answer that is not JSON is the result."""

    def around(original: Any) -> Any:
        def result(answer: bytes) -> ToolResult:
            try:
                return original(answer)
            except callback.CallbackFailed:
                return ToolResult("ok", answer.decode("utf-8", "replace"))

        return result

    _result(around)


@breaks("CB-3.too-long")
def any_length() -> None:
    """An answer of any length is taken."""
    wrap(callback, "MAX_ANSWER", lambda _: 2**30)


# -- CB-4 --------------------------------------------------------------------------------------------------------------


@breaks("CB-4.signature", "CB-4.made-secret")
def signed_wrongly() -> None:
    """A call is signed over something else than its body."""

    def around(original: Any) -> Any:
        return lambda self, secret, call_id, body: {
            **original(self, secret, call_id, body + b" "),
            "content-length": str(len(body)),
        }

    wrap(CallbackClient, "_headers", around)


@breaks("CB-4.made-secret")
def secret_kept() -> None:
    """A secret that the server made is not told."""
    from cmdc_gateway.protocol.tools import ToolRegistered

    wrap(
        actions,
        "ToolRegistered",
        lambda _: lambda **given: ToolRegistered(name=given["name"], status="registered"),
    )


@breaks("CB-4.bad-secret")
def any_secret() -> None:
    """A secret may be anything: one that is none is replaced."""
    from cmdc_gateway.tools.callback import check_secret, new_secret

    def around(original: Any) -> Any:
        def define(body: Any, addresses: Any) -> Any:
            try:
                if body.secret is not None:
                    check_secret(body.secret)
            except RegistrationFailed:
                body = body.model_copy(update={"secret": new_secret(lambda size: b"x" * size)})
            return original(body, addresses)

        return define

    wrap(actions, "define", around)


@breaks("CB-4.retried")
def never_again() -> None:
    """A call of an idempotent tool is not sent again."""
    wrap(callback, "RETRY_DELAYS", lambda _: ())


@breaks("CB-4.not-retried")
def again_and_again() -> None:
    """A call is sent again although its tool may not be called twice."""

    def around(original: Any) -> Any:
        return lambda self, definition, *args: original(self, replace(definition, idempotent=True), *args)

    wrap(CallbackClient, "_try_and_retry", around)


# -- CB-5 --------------------------------------------------------------------------------------------------------------


@breaks("CB-5.literal")
def everywhere() -> None:
    """A tool may be anywhere, also in the server's own network."""
    wrap(AddressPolicy, "check_url", lambda _: lambda _, text: _parsed(text))


def _parsed(text: str) -> None:
    try:
        url.CallbackUrl.parse(text)
    except url.InvalidUrl as error:
        raise RegistrationFailed(f"callbackUrl: {error}") from None


@breaks("CB-5.userinfo")
def named_user() -> None:
    """An address with a user's name is taken."""

    def around(original: Any) -> Any:
        def check_url(self: Any, text: str) -> None:
            scheme, mark, rest = text.partition("://")
            original(self, scheme + mark + rest.rpartition("@")[2])

        return check_url

    wrap(AddressPolicy, "check_url", around)
