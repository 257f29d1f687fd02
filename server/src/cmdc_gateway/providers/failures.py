"""What is said about a model call that failed, and whether it is worth another try (PROTOCOL §10).

Sentences made here are shown to readers: whatever a provider wrote is scrubbed of addresses and credentials first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

from cmdc_gateway.providers.provider import ModelError

CUT_OFF = "the model's answer was cut off"
UNREACHABLE = "the model's provider could not be reached"
NO_ANSWER = "the model's provider did not answer in time"
NOT_AN_ANSWER = "the model's provider sent something that is not an answer"
LOST = "the connection to the model's provider was lost"

_LONGEST = 500
_HIDDEN = "[hidden]"
_ADDRESS = re.compile(
    r"\b[a-z][a-z0-9+.-]*://\S+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\blocalhost(?::\d+)?\b", re.IGNORECASE
)
_CREDENTIAL = re.compile(
    r"\bBearer\s+\S+"
    r"|\b(?:sk|pk|rk|gsk|xai|hf|key|AIza|whsec)[-_][\w*.-]{6,}"
    r"|\bAIza[\w-]{10,}"
    r"|(?<=[?&])(?:api[-_]?key|key|token)=[^\s&]+"
    r"|(?<![\w-])(?:x-)?api[-_]key[\"']?\s*[:=]\s*\S+"
    # Long runs of hexadecimal or of mixed letters and digits are keys more often than words.
    r"|\b(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{32,}",
    re.IGNORECASE,
)


def is_transient(status: int) -> bool:
    """True for the HTTP statuses after which the same call may succeed a moment later."""
    return status in (408, 429) or 500 <= status <= 599


def rejection(status: int, said: str = "") -> str:
    """The sentence for an HTTP status that a provider answered with. `said` has been through `scrubbed`."""
    return f"the model's provider answered with status {status}" + (f": {said}" if said else "")


def rejected(status: int, wait: float | None, said: str) -> ModelError:
    """The failure that such an answer is. `wait` is how many seconds the provider asked for; `said` was `scrubbed`."""
    if status == 401:
        # What a provider says to this has parts of the key in it, and no reader can do anything about it.
        said = "it does not accept the server's credentials"
    return ModelError(rejection(status, said), transient=is_transient(status), retry_after=wait)


def seconds_to_wait(retry_after: str, now: float) -> float | None:
    """What a Retry-After header asks for: seconds, or a date. None if it is neither."""
    if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", retry_after.strip(), re.ASCII):
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - now)
    except ValueError:
        return None


def scrubbed(text: str, secrets: Iterable[str] = ()) -> str:
    """A provider's words as readers may see them: one line, short, without addresses and credentials."""
    # What is looked through is bounded first: a provider may answer with megabytes.
    text = " ".join(text[: 20 * _LONGEST].split())
    for secret in secrets:
        if secret:
            text = text.replace(secret, _HIDDEN)
    text = _CREDENTIAL.sub(_HIDDEN, _ADDRESS.sub(_HIDDEN, text))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
