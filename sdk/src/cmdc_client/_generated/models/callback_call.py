from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.callback_call_args import CallbackCallArgs


T = TypeVar("T", bound="CallbackCall")


@_attrs_define
class CallbackCall:
    """A tool call, sent to `callbackUrl` in a POST request.

    Attributes:
        call_id (str): ID of the call; the same for retries.
        tool_name (str):
        args (CallbackCallArgs): Arguments, valid against `parameters`.
        session_id (str):
    """

    call_id: str
    tool_name: str
    args: CallbackCallArgs
    session_id: str

    def to_dict(self) -> dict[str, Any]:
        call_id = self.call_id

        tool_name = self.tool_name

        args = self.args.to_dict()

        session_id = self.session_id

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "callId": call_id,
                "toolName": tool_name,
                "args": args,
                "sessionId": session_id,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        from ..models.callback_call_args import CallbackCallArgs

        d = dict(src_dict)
        call_id = d.pop("callId")

        tool_name = d.pop("toolName")

        args = CallbackCallArgs.from_dict(d.pop("args"))

        session_id = d.pop("sessionId")

        callback_call = cls(
            call_id=call_id,
            tool_name=tool_name,
            args=args,
            session_id=session_id,
        )

        return callback_call
