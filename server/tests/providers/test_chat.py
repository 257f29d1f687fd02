"""The history on its way to a model, and tool calls on their way back."""

from __future__ import annotations

import pytest
from cmdc_gateway.kernel.signals import ToolRequested
from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.history import TokenUsage, ToolCall, assistant, system, tool_result, user
from cmdc_gateway.providers.chat import ToolFragments, chat_messages, estimated_usage, functions
from cmdc_gateway.providers.provider import ModelRequest
from hypothesis import given
from hypothesis import strategies as st

Fragment = tuple[int, str | None, str | None, str | None]


def test_a_history_becomes_a_chat() -> None:
    call = ToolCall("call_r_1", "get_weather", {"city": "Ås"})

    chat = chat_messages(
        [
            system("Be brief."),
            user("Rain?"),
            assistant("", (call,)),
            tool_result(call, "yes", is_error=False),
            assistant("Yes."),
        ]
    )

    function = {"name": "get_weather", "arguments": '{"city":"Ås"}'}
    assert chat == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Rain?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_r_1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_r_1", "name": "get_weather", "content": "yes"},
        {"role": "assistant", "content": "Yes."},
    ]


def test_tools_become_functions() -> None:
    assert functions([ToolSpec("f", "does", {"type": "object"})]) == [
        {"type": "function", "function": {"name": "f", "description": "does", "parameters": {"type": "object"}}}
    ]


def test_an_estimate_is_a_token_for_every_four_bytes() -> None:
    request = ModelRequest("x:y", (user("12345"),), (ToolSpec("f", "abc", {}),))

    assert estimated_usage(request, 9) == TokenUsage(prompt_tokens=3, completion_tokens=3)
    assert estimated_usage(ModelRequest("x:y", ()), 0) == TokenUsage()


@pytest.mark.parametrize(
    ("fragments", "requests"),
    [
        # as OpenAI sends them
        ([(0, "c1", "f", ""), (0, None, None, '{"a"'), (0, None, None, ": 1}")], [ToolRequested("f", {"a": 1})]),
        # two at once, interleaved
        (
            [(0, "c1", "f", None), (1, "c2", "g", None), (1, None, None, '{"b":2}'), (0, None, None, '{"a":1}')],
            [ToolRequested("f", {"a": 1}), ToolRequested("g", {"b": 2})],
        ),
        # whole calls, all numbered 0
        ([(0, "c1", "f", "{}"), (0, "c2", "f", '{"a":1}')], [ToolRequested("f", {}), ToolRequested("f", {"a": 1})]),
        # the same without ids
        (
            [(0, None, "f", '{"n":1}'), (0, None, "f", '{"n":2}')],
            [ToolRequested("f", {"n": 1}), ToolRequested("f", {"n": 2})],
        ),
        ([(0, None, "f", ""), (0, None, "g", "")], [ToolRequested("f", {}), ToolRequested("g", {})]),
        # id and name said again with every fragment
        ([(0, "c1", "f", '{"a"'), (0, "c1", "f", ":1}")], [ToolRequested("f", {"a": 1})]),
        ([(0, None, "f", '{"a"'), (0, None, "f", ":1}")], [ToolRequested("f", {"a": 1})]),
        # the name comes late, the id never
        ([(3, None, None, None), (3, None, "f", "{}")], [ToolRequested("f", {})]),
        ([(0, "c1", "f", None)], [ToolRequested("f", {})]),
        ([(0, "c1", "f", " \n")], [ToolRequested("f", {})]),
        ([(0, "c1", "f", '{"a": "\ud83d'), (0, None, None, '\ude00"}')], [ToolRequested("f", {"a": "😀"})]),
        ([], []),
    ],
)
def test_fragments_become_calls(fragments: list[Fragment], requests: list[ToolRequested]) -> None:
    calls = ToolFragments()
    for fragment in fragments:
        calls.add(*fragment)

    assert calls.requests() == requests


@pytest.mark.parametrize(
    "arguments", ["{", "[]", "1", '"x"', "null", '{"a": NaN}', '{"a": 1e999}', "{} {}", "{'a': 1}"]
)
def test_arguments_that_are_no_object_are_a_flaw(arguments: str) -> None:
    calls = ToolFragments()
    calls.add(0, "c1", "f", arguments)

    [request] = calls.requests()

    assert (request.name, request.args) == ("f", {})
    assert request.error is not None
    assert request.error.startswith("The arguments of f cannot be read: ")


def test_another_id_is_another_call_even_if_the_first_is_not_complete() -> None:
    calls = ToolFragments()
    calls.add(0, "c1", "f", '{"a"')
    calls.add(0, "c2", "f", "{}")

    broken, whole = calls.requests()

    assert broken.error is not None
    assert whole == ToolRequested("f", {})


def test_a_call_without_a_name_is_a_flaw() -> None:
    calls = ToolFragments()
    calls.add(0, "c1", None, "{}")

    assert calls.requests() == [ToolRequested("", {}, error="The tool call has no name.")]


@given(
    args=st.dictionaries(st.text('ab"\\é😀', max_size=3), st.integers(-9, 9) | st.text('x\u2028"{}', max_size=4)),
    data=st.data(),
)
def test_however_arguments_are_cut_they_are_the_same(args: dict[str, int | str], data: st.DataObject) -> None:
    text, calls = dumps(args).decode(), ToolFragments()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))

    calls.add(0, "c1", "f", None)
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        calls.add(0, None, None, text[start:end])

    assert calls.requests() == [ToolRequested("f", dict(args))]
