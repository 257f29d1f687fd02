"""Mutants that mishandle callback tools (CB)."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false, reportPrivateUsage=false

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from cmdc_gateway.errors import RegistrationFailed
from cmdc_gateway.sessions.commands import SessionCommands
from cmdc_gateway.sessions.toolset import Toolset
from cmdc_gateway.tools.callbacks import client, errors, registration, response, url
from cmdc_gateway.tools.callbacks.addresses import AddressPolicy
from cmdc_gateway.tools.callbacks.client import CallbackClient
from cmdc_gateway.tools.callbacks.tool import CallbackTool
from cmdc_gateway.tools.tool import ToolResult
from cmdc_gateway.web import actions, dependencies

from broken_gateways.mutant import breaks
from broken_gateways.patching import after_waiting, change_arguments, wrap

# -- CB-1 --------------------------------------------------------------------------------------------------------------


@breaks("CB-1.registered")
def registered_under_another_name() -> None:
    """Registering a tool returns another name."""
    from broken_gateways.patching import Response, change_responses

    def change(response: Response) -> None:
        if response.status == 201:
            response.body["name"] = response.body["name"].upper()

    change_responses(r"/v1/sessions/[^/]+/tools", change, method="POST")


@breaks("CB-1.fields", "HTTP-3.unknown-field")
def tool_without_a_description() -> None:
    """A tool without a description or with unknown fields is accepted."""

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
    """A tool may have any name."""

    class Anything:
        def fullmatch(self, _: str) -> bool:
            return True

    wrap(registration, "_NAME", lambda _: Anything())


@breaks("CB-1.replaced", "CB-3.refused")
def first_registration_wins() -> None:
    """Registering a tool again does not replace it."""

    def change(given: dict[str, Any]) -> None:
        present = given["self"]._actor.view.snapshot.toolset.get(given["definition"].name)
        if present is not None and present.definition is not None:
            given["definition"] = present.definition

    change_arguments(SessionCommands, "register", change)


@breaks("CB-1.running")
def available_in_the_next_run() -> None:
    """A tool that is registered during a run is not available before the next run."""

    def around(original: Any) -> Any:
        def error(self: Any, name: str, args: Any) -> Any:
            if name in getattr(self, "_too_late", ()):
                return f"this session has no tool {name!r}"
            return original(self, name, args)

        return error

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
def requires_approval_ignored() -> None:
    """The field requiresApproval is accepted and ignored."""

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
def call_without_session_id() -> None:
    """A call has no sessionId."""

    def around(original: Any) -> Any:
        def dumps(value: Any) -> bytes:
            if isinstance(value, dict) and "toolName" in value:
                value = {**value, "sessionId": "somewhere"}
            return original(value)

        return dumps

    wrap(client, "dumps", around)


def _result(change: Any) -> None:
    """Change how the response of a tool becomes a result."""
    wrap(client, "parse_result", change)


@breaks("CB-2.result")
def result_in_python_syntax() -> None:
    """A result that is not a string is passed on in Python syntax."""

    def around(original: Any) -> Any:
        def result(response: bytes) -> ToolResult:
            found = original(response)
            text = json.loads(response)
            return found if isinstance(text.get("result", ""), str) else ToolResult("ok", repr(text["result"]))

        return result

    _result(around)


@breaks("CB-2.error")
def error_is_a_result() -> None:
    """A response with error is a successful result."""
    _result(lambda original: lambda response: replace(original(response), status="ok"))


@breaks("CB-2.validated", "EVT-1.bad-arguments")
def unvalidated_arguments() -> None:
    """Arguments that violate the schema are sent to the tool before they are rejected."""
    import asyncio

    from cmdc_gateway.protocol.history import ToolCall

    def around(original: Any) -> Any:
        def error(self: Any, name: str, args: Any) -> Any:
            found = original(self, name, args)
            fitting = self._tools.get(name)
            if found is not None and fitting is not None and isinstance(fitting.tool, CallbackTool):
                tool: Any = fitting.tool
                sent = tool._client.call(tool._definition, ToolCall("call_0", name, args), tool._session_id)
                asyncio.get_running_loop().create_task(sent)
            return found

        return error

    wrap(Toolset, "call_error", around)


# -- CB-3 --------------------------------------------------------------------------------------------------------------


def _failure(part: str, status: str = "ok") -> None:
    """Report one kind of failed call as successful."""

    def change(result: ToolResult) -> ToolResult:
        return replace(result, status=status) if part in result.result else result

    after_waiting(CallbackClient, "call", change)


@breaks("CB-3.timeout")
def timeout_is_success() -> None:
    """A call that times out is successful."""
    _failure("did not respond within")


@breaks("CB-3.refused")
def refused_connection_is_success() -> None:
    """A call whose connection is refused is successful."""
    _failure("refused or timed out")


@breaks("CB-3.status")
def any_status() -> None:
    """The body of a 500 is a successful result."""

    def around(original: Any) -> Any:
        def check_status(status: int, place: Any) -> None:
            if status != 500:
                original(status, place)

        return check_status

    wrap(response, "_check_status", around)


@breaks("CB-3.redirect")
def redirect_is_success() -> None:
    """A call that is redirected is successful."""
    _failure("returned a redirect")


@breaks("CB-3.not-json")
def text_is_a_result() -> None:
    """A response that is not JSON is a successful result."""

    def around(original: Any) -> Any:
        def result(response: bytes) -> ToolResult:
            try:
                return original(response)
            except errors.CallbackFailed:
                return ToolResult("ok", response.decode("utf-8", "replace"))

        return result

    _result(around)


@breaks("CB-3.too-long")
def unlimited_response() -> None:
    """A response of any length is accepted."""
    wrap(response, "MAX_RESPONSE_BYTES", lambda _: 2**30)


# -- CB-4 --------------------------------------------------------------------------------------------------------------


@breaks("CB-4.signature", "CB-4.made-secret")
def wrong_signature() -> None:
    """A call is signed over something other than its body."""

    def around(original: Any) -> Any:
        return lambda self, secret, call_id, body: {
            **original(self, secret, call_id, body + b" "),
            "content-length": str(len(body)),
        }

    wrap(CallbackClient, "_headers", around)


@breaks("CB-4.made-secret")
def secret_not_returned() -> None:
    """A generated secret is not returned."""
    from cmdc_gateway.protocol.tools import ToolRegistered

    wrap(
        actions,
        "ToolRegistered",
        lambda _: lambda **given: ToolRegistered(name=given["name"], status="registered"),
    )


@breaks("CB-4.bad-secret")
def any_secret() -> None:
    """An invalid secret is accepted and replaced."""
    from cmdc_gateway.tools.callbacks.secret import check_secret, new_secret

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
def never_retried() -> None:
    """A call of an idempotent tool is not retried."""
    wrap(client, "RETRY_DELAYS", lambda _: ())


@breaks("CB-4.not-retried")
def always_retried() -> None:
    """A call of a tool that is not idempotent is retried."""

    def around(original: Any) -> Any:
        return lambda self, definition, *args: original(self, replace(definition, idempotent=True), *args)

    wrap(CallbackClient, "_call_with_retries", around)


# -- CB-5 --------------------------------------------------------------------------------------------------------------


@breaks("CB-5.literal")
def any_address() -> None:
    """A tool may have any address, also in an internal network."""
    wrap(AddressPolicy, "check_url", lambda _: lambda _, text: _parsed(text))


def _parsed(text: str) -> None:
    try:
        url.CallbackUrl.parse(text)
    except url.InvalidUrl as error:
        raise RegistrationFailed(f"callbackUrl: {error}") from None


@breaks("CB-5.userinfo")
def url_with_user() -> None:
    """A callback URL with a user name is accepted."""

    def around(original: Any) -> Any:
        def check_url(self: Any, text: str) -> None:
            scheme, mark, rest = text.partition("://")
            original(self, scheme + mark + rest.rpartition("@")[2])

        return check_url

    wrap(AddressPolicy, "check_url", around)
