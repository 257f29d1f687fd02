from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar, cast

from attrs import define as _attrs_define

T = TypeVar("T", bound="PendingQuestion")


@_attrs_define
class PendingQuestion:
    """A pending question: the `data` of its `ask_user` event.

    Attributes:
        ref (str):
        question (str):
        options (list[str] | None):
        request_id (str):
    """

    ref: str
    question: str
    options: list[str] | None
    request_id: str

    def to_dict(self) -> dict[str, Any]:
        ref = self.ref

        question = self.question

        options: list[str] | None
        if isinstance(self.options, list):
            options = self.options

        else:
            options = self.options

        request_id = self.request_id

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "ref": ref,
                "question": question,
                "options": options,
                "requestId": request_id,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls, src_dict: Mapping[str, Any]) -> Self:
        d = dict(src_dict)
        ref = d.pop("ref")

        question = d.pop("question")

        def _parse_options(data: object) -> list[str] | None:
            if data is None:
                return data
            try:
                if not isinstance(data, list):
                    raise TypeError()
                options_type_0 = cast(list[str], data)

                return options_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(list[str] | None, data)

        options = _parse_options(d.pop("options"))

        request_id = d.pop("requestId")

        pending_question = cls(
            ref=ref,
            question=question,
            options=options,
            request_id=request_id,
        )

        return pending_question
