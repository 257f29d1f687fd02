"""Complete characters from the chunks of a model (EVT-6).

A provider may split its text anywhere, even between the two halves of a surrogate pair. A high surrogate is held back
until the next chunk completes it, and is replaced by U+FFFD if none does. Empty chunks are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cmdc_gateway.kernel.signals import CHUNKS, Chunk, ModelSignal
from cmdc_gateway.protocol.encoding import whole_text

_FIRST_HIGH_SURROGATE, _LAST_HIGH_SURROGATE = "\ud800", "\udbff"


class CharacterAssembler:
    """Assembles the characters in the signals of one model call."""

    def __init__(self) -> None:
        self._pending: Chunk | None = None

    def feed(self, signal: ModelSignal) -> tuple[ModelSignal, ...]:
        """The signals that are complete once this one has arrived."""
        if not isinstance(signal, CHUNKS):
            return (*self.flush(), signal)
        if self._pending is None and signal.text.isascii():
            return (signal,) if signal.text else ()
        return tuple(self._assemble(signal))

    def flush(self) -> tuple[ModelSignal, ...]:
        """The half character that is held back, if there is one, replaced by U+FFFD."""
        pending, self._pending = self._pending, None
        return (replace(pending, text=whole_text(pending.text)),) if pending else ()

    def _assemble(self, signal: Chunk) -> Iterator[ModelSignal]:
        if not signal.text:
            return
        if type(self._pending) is type(signal):
            assert self._pending is not None
            signal, self._pending = replace(signal, text=self._pending.text + signal.text), None
        yield from self.flush()
        if _FIRST_HIGH_SURROGATE <= signal.text[-1] <= _LAST_HIGH_SURROGATE:
            self._pending = replace(signal, text=signal.text[-1])
            signal = replace(signal, text=signal.text[:-1])
        if signal.text:
            yield replace(signal, text=whole_text(signal.text))
