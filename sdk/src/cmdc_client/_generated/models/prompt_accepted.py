from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar

from attrs import define as _attrs_define

T = TypeVar("T", bound="PromptAccepted")


@_attrs_define
class PromptAccepted:
    """The prompt was committed. Reading the log after `cursor` returns every event of its run.

    Attributes:
        request_id (str):
        session_id (str):
        queued (bool): True if another run is active.
        cursor (str):
    """

    request_id: str
    session_id: str
    queued: bool
    cursor: str

    def to_dict(self) -> dict[str, Any]:
        request_id = self.request_id

        session_id = self.session_id

        queued = self.queued

        cursor = self.cursor

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "requestId": request_id,
                "sessionId": session_id,
                "queued": queued,
                "cursor": cursor,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        d = dict(src_dict)
        request_id = d.pop("requestId")

        session_id = d.pop("sessionId")

        queued = d.pop("queued")

        cursor = d.pop("cursor")

        prompt_accepted = cls(
            request_id=request_id,
            session_id=session_id,
            queued=queued,
            cursor=cursor,
        )

        return prompt_accepted
