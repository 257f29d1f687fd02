"""Whole characters out of a model's chunks (EVT-6).

A provider may cut its text anywhere, also between the two halves of a surrogate pair. Half a character is held back
until its other half comes; one that never does becomes U+FFFD. Empty chunks are dropped.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import replace

from cmdc_gateway.kernel.signals import ModelSignal, TextArrived, ThoughtArrived
from cmdc_gateway.protocol.encoding import whole_text

_HIGH = ("\ud800", "\udbff")


async def whole_characters(signals: AsyncIterable[ModelSignal]) -> AsyncGenerator[ModelSignal]:
    """The same signals with whole characters in them. What is held back when the signals fail is lost with them."""
    held: ThoughtArrived | TextArrived | None = None
    async for signal in signals:
        if not isinstance(signal, ThoughtArrived | TextArrived):
            if held:
                yield replace(held, text=whole_text(held.text))
                held = None
            yield signal
            continue
        if not signal.text:
            continue
        if held and type(held) is type(signal):
            signal = replace(signal, text=held.text + signal.text)  # noqa: PLW2901
        elif held:
            yield replace(held, text=whole_text(held.text))
        held = None
        if _HIGH[0] <= signal.text[-1] <= _HIGH[1]:
            held = replace(signal, text=signal.text[-1])
            signal = replace(signal, text=signal.text[:-1])  # noqa: PLW2901
        if signal.text:
            yield signal if signal.text.isascii() else replace(signal, text=whole_text(signal.text))
    if held:
        yield replace(held, text=whole_text(held.text))
