"""Messages for failed model calls, and which failures are transient (MODEL-retry).

The messages are shown to readers, so text from a provider is redacted first: no addresses and no credentials.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime

from cmdc_gateway.providers.provider import ModelError

CUT_OFF = "the model's response was cut off"
UNREACHABLE = "the model's provider cannot be reached"
TIMED_OUT = "the model's provider did not respond in time"
INVALID_RESPONSE = "the model's provider sent an invalid response"
CONNECTION_LOST = "the connection to the model's provider was lost"

_MAX_LENGTH = 500
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
    # A long run of hexadecimal digits, or of letters and digits, is more often a key than a word.
    r"|\b(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{32,}",
    re.IGNORECASE,
)


def is_transient(status: int) -> bool:
    """Whether a call that failed with this HTTP status may succeed later."""
    return status in (408, 429) or 500 <= status <= 599


def status_message(status: int, detail: str = "") -> str:
    """The message for an error status of a provider. `detail` must be redacted."""
    return f"the model's provider returned status {status}" + (f": {detail}" if detail else "")


def status_error(status: int, retry_after: str | None, detail: str) -> ModelError:
    """The error for an error status of a provider. `retry_after` is the header, if any; `detail` must be redacted."""
    if status == 401:
        # The providers' own messages contain parts of the key, and readers cannot act on them.
        detail = "it rejected the server's credentials"
    delay = parse_retry_after(retry_after, time.time()) if retry_after else None
    return ModelError(status_message(status, detail), transient=is_transient(status), retry_after=delay)


def parse_retry_after(header: str, now: float) -> float | None:
    """The delay in seconds that a Retry-After header asks for, as a number or a date; None if it is neither."""
    if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", header.strip(), re.ASCII):
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except ValueError:
        return None


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """A provider's text without addresses, credentials and the given secrets, shortened to one line."""
    # Bound the work of the patterns: a provider may send megabytes.
    text = " ".join(text[: 20 * _MAX_LENGTH].split())
    for secret in secrets:
        if secret:
            text = text.replace(secret, _HIDDEN)
    text = _CREDENTIAL.sub(_HIDDEN, _ADDRESS.sub(_HIDDEN, text))
    return text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 1] + "…"
