"""The description of a tool that the kernel and the model see. `tools/` runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as presented to the model. `parameters` is a JSON Schema of type object."""

    name: str
    description: str
    parameters: dict[str, JsonValue]
    kind: Literal["builtin", "callback"] = "builtin"
    requires_approval: bool = False
    idempotent: bool = False
