from typing import Literal

SessionSummaryState = Literal["idle", "waiting_approval", "waiting_input", "working"]

SESSION_SUMMARY_STATE_VALUES: set[SessionSummaryState] = {
    "idle",
    "waiting_approval",
    "waiting_input",
    "working",
}


def check_session_summary_state(value: str) -> SessionSummaryState:
    if value in SESSION_SUMMARY_STATE_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {SESSION_SUMMARY_STATE_VALUES!r}")
