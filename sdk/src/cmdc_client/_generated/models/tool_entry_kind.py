from typing import Literal

ToolEntryKind = Literal["builtin", "callback"]

TOOL_ENTRY_KIND_VALUES: set[ToolEntryKind] = {
    "builtin",
    "callback",
}


def check_tool_entry_kind(value: str) -> ToolEntryKind:
    if value in TOOL_ENTRY_KIND_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {TOOL_ENTRY_KIND_VALUES!r}")
