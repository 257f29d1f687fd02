from typing import Literal

SessionInfoState = Literal["idle", "waiting_approval", "waiting_input", "working"]

SESSION_INFO_STATE_VALUES: set[SessionInfoState] = {
    "idle",
    "waiting_approval",
    "waiting_input",
    "working",
}


def check_session_info_state(value: str) -> SessionInfoState:
    if value in SESSION_INFO_STATE_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {SESSION_INFO_STATE_VALUES!r}")
