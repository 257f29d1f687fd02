"""Text arrives in complete characters (EVT-6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest
from cmdc_gateway.kernel.signals import ModelFinished, ModelSignal, TextArrived, ThoughtArrived, ToolRequested
from cmdc_gateway.protocol.encoding import whole_text
from cmdc_gateway.protocol.history import TokenUsage
from cmdc_gateway.providers.characters import CharacterAssembler
from hypothesis import given
from hypothesis import strategies as st

HIGH, LOW = "\ud83d", "\ude00"
FINISHED = ModelFinished(TokenUsage())


def assembled(signals: Sequence[ModelSignal]) -> list[ModelSignal]:
    characters = CharacterAssembler()
    complete = [signal for arrived in signals for signal in characters.feed(arrived)]
    return [*complete, *characters.flush()]


@pytest.mark.parametrize(
    ("chunks", "arrived"),
    [
        (["x" + HIGH, LOW + "y"], ["x", "😀y"]),
        ([HIGH, "", LOW], ["😀"]),
        ([HIGH, LOW + HIGH, LOW], ["😀", "😀"]),
        ([HIGH, HIGH, LOW], ["\ufffd", "😀"]),
        ([HIGH, "x"], ["\ufffdx"]),
        ([LOW], ["\ufffd"]),
        (["a" + HIGH], ["a", "\ufffd"]),
        (["", "a", "", "b"], ["a", "b"]),
        (["a" + HIGH + LOW], ["a😀"]),
    ],
)
@pytest.mark.parametrize("kind", [TextArrived, ThoughtArrived])
def test_halves_of_a_character_are_joined_or_replaced(
    kind: type[TextArrived | ThoughtArrived], chunks: list[str], arrived: list[str]
) -> None:
    signals = assembled([*(kind(chunk) for chunk in chunks), FINISHED])

    assert signals == [*(kind(text) for text in arrived), FINISHED]


@pytest.mark.parametrize("other", [ThoughtArrived("hm"), ToolRequested("f", {}), FINISHED])
def test_half_a_character_is_not_joined_across_another_signal(other: ModelSignal) -> None:
    signals = assembled([TextArrived(HIGH), other, TextArrived(LOW)])

    assert signals == [TextArrived("\ufffd"), other, TextArrived("\ufffd")]


def test_half_a_character_at_the_end_is_replaced() -> None:
    assert assembled([TextArrived("a" + HIGH)]) == [TextArrived("a"), TextArrived("\ufffd")]


_CHUNKS = st.lists(st.tuples(st.sampled_from(["text", "thought"]), st.text(st.characters(), max_size=3)))


@given(chunks=_CHUNKS)
def test_however_it_was_cut_it_is_the_same_text(chunks: list[tuple[Literal["text", "thought"], str]]) -> None:
    signals = assembled([{"text": TextArrived, "thought": ThoughtArrived}[kind](text) for kind, text in chunks])

    def blocks(parts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        joined: list[tuple[str, str]] = []
        for kind, text in parts:
            if not text:
                continue
            if joined and joined[-1][0] == kind:
                joined[-1] = (kind, joined[-1][1] + text)
            else:
                joined.append((kind, text))
        return joined

    arrived: list[tuple[str, str]] = []
    for signal in signals:
        assert isinstance(signal, TextArrived | ThoughtArrived)
        assert signal.text
        signal.text.encode()
        arrived.append(("text" if isinstance(signal, TextArrived) else "thought", signal.text))
    assert blocks(arrived) == [(kind, whole_text(text)) for kind, text in blocks(chunks)]
