"""Errors while a callback tool is called. Their messages go to the model; they contain no path, query or secret."""

from __future__ import annotations


class CallbackFailed(Exception):
    """An attempt failed.

    `sent` is whether the tool may have received the call, and `transient` whether another attempt may succeed.
    """

    def __init__(self, message: str, *, sent: bool = True, transient: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.transient = transient


class NotConnected(Exception):
    """No connection was made, so nothing was sent. `forbidden` is whether the address is not allowed."""

    def __init__(self, message: str, *, forbidden: bool = False) -> None:
        super().__init__(message)
        self.forbidden = forbidden


class ByteLimitExceeded(Exception):
    """The peer has sent more bytes than the limit."""
