from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar

from attrs import define as _attrs_define

T = TypeVar("T", bound="QueuedPrompt")


@_attrs_define
class QueuedPrompt:
    """A queued prompt.

    Attributes:
        request_id (str):
        text (str):
    """

    request_id: str
    text: str

    def to_dict(self) -> dict[str, Any]:
        request_id = self.request_id

        text = self.text

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "requestId": request_id,
                "text": text,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        d = dict(src_dict)
        request_id = d.pop("requestId")

        text = d.pop("text")

        queued_prompt = cls(
            request_id=request_id,
            text=text,
        )

        return queued_prompt
