"""Whole characters out of a model's chunks (EVT-6).

A provider may cut its text anywhere, also between the two halves of a surrogate pair. Half a character is held back
until its other half comes; one that never does becomes U+FFFD. Empty chunks are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cmdc_gateway.kernel.signals import CHUNKS, Chunk, ModelSignal
from cmdc_gateway.protocol.encoding import whole_text

_HIGH = ("\ud800", "\udbff")


class WholeCharacters:
    """Signals of one model call, with whole characters in them."""

    def __init__(self) -> None:
        self._held: Chunk | None = None

    def take(self, signal: ModelSignal) -> tuple[ModelSignal, ...]:
        """What can be passed on now that this has come."""
        if not isinstance(signal, CHUNKS):
            return (*self.rest(), signal)
        if self._held is None and signal.text.isascii():
            return (signal,) if signal.text else ()
        return tuple(self._joined(signal))

    def rest(self) -> tuple[ModelSignal, ...]:
        """What is held back, once it is known that its other half will not come."""
        held, self._held = self._held, None
        return (replace(held, text=whole_text(held.text)),) if held else ()

    def _joined(self, signal: Chunk) -> Iterator[ModelSignal]:
        if not signal.text:
            return
        if type(self._held) is type(signal):
            assert self._held is not None
            signal, self._held = replace(signal, text=self._held.text + signal.text), None
        yield from self.rest()
        if _HIGH[0] <= signal.text[-1] <= _HIGH[1]:
            self._held = replace(signal, text=signal.text[-1])
            signal = replace(signal, text=signal.text[:-1])
        if signal.text:
            yield replace(signal, text=whole_text(signal.text))
