"""Conversion to and from the Chat Completions format."""

from __future__ import annotations

import pytest
from cmdc_gateway.kernel.signals import ToolRequested
from cmdc_gateway.kernel.tool import ToolSpec
from cmdc_gateway.protocol.encoding import dumps
from cmdc_gateway.protocol.history import TokenUsage, ToolCall, assistant, system, tool_result, user
from cmdc_gateway.providers.chat import ToolCallAssembler, chat_messages, estimated_usage, function_tools
from cmdc_gateway.providers.provider import ModelRequest
from hypothesis import given
from hypothesis import strategies as st

Fragment = tuple[int, str | None, str | None, str | None]


def test_a_history_is_converted_to_messages() -> None:
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


def test_tools_are_converted_to_functions() -> None:
    assert function_tools([ToolSpec("f", "does", {"type": "object"})]) == [
        {"type": "function", "function": {"name": "f", "description": "does", "parameters": {"type": "object"}}}
    ]


def test_usage_is_estimated_at_one_token_per_four_bytes() -> None:
    request = ModelRequest("x:y", (user("12345"),), (ToolSpec("f", "abc", {}),))

    assert estimated_usage(request, 9) == TokenUsage(prompt_tokens=3, completion_tokens=3)
    assert estimated_usage(ModelRequest("x:y", ()), 0) == TokenUsage()


@pytest.mark.parametrize(
    ("fragments", "requests"),
    [
        # as OpenAI sends them
        ([(0, "c1", "f", ""), (0, None, None, '{"a"'), (0, None, None, ": 1}")], [ToolRequested("f", {"a": 1})]),
        # two calls, interleaved
        (
            [(0, "c1", "f", None), (1, "c2", "g", None), (1, None, None, '{"b":2}'), (0, None, None, '{"a":1}')],
            [ToolRequested("f", {"a": 1}), ToolRequested("g", {"b": 2})],
        ),
        # complete calls, all with the index 0
        ([(0, "c1", "f", "{}"), (0, "c2", "f", '{"a":1}')], [ToolRequested("f", {}), ToolRequested("f", {"a": 1})]),
        # the same without ids
        (
            [(0, None, "f", '{"n":1}'), (0, None, "f", '{"n":2}')],
            [ToolRequested("f", {"n": 1}), ToolRequested("f", {"n": 2})],
        ),
        ([(0, None, "f", ""), (0, None, "g", "")], [ToolRequested("f", {}), ToolRequested("g", {})]),
        # id and name repeated in every fragment
        ([(0, "c1", "f", '{"a"'), (0, "c1", "f", ":1}")], [ToolRequested("f", {"a": 1})]),
        ([(0, None, "f", '{"a"'), (0, None, "f", ":1}")], [ToolRequested("f", {"a": 1})]),
        # a late name, and no id
        ([(3, None, None, None), (3, None, "f", "{}")], [ToolRequested("f", {})]),
        ([(0, "c1", "f", None)], [ToolRequested("f", {})]),
        ([(0, "c1", "f", " \n")], [ToolRequested("f", {})]),
        ([(0, "c1", "f", '{"a": "\ud83d'), (0, None, None, '\ude00"}')], [ToolRequested("f", {"a": "😀"})]),
        ([], []),
    ],
)
def test_fragments_are_assembled_to_calls(fragments: list[Fragment], requests: list[ToolRequested]) -> None:
    calls = ToolCallAssembler()
    for fragment in fragments:
        calls.add(*fragment)

    assert calls.requests() == requests


@pytest.mark.parametrize(
    "arguments", ["{", "[]", "1", '"x"', "null", '{"a": NaN}', '{"a": 1e999}', "{} {}", "{'a': 1}"]
)
def test_arguments_that_are_not_a_json_object_are_an_error(arguments: str) -> None:
    calls = ToolCallAssembler()
    calls.add(0, "c1", "f", arguments)

    [request] = calls.requests()

    assert (request.name, request.args) == ("f", {})
    assert request.error is not None
    assert request.error.startswith("The arguments of f are not a JSON object: ")


def test_another_id_begins_another_call_even_if_the_first_is_incomplete() -> None:
    calls = ToolCallAssembler()
    calls.add(0, "c1", "f", '{"a"')
    calls.add(0, "c2", "f", "{}")

    incomplete, complete = calls.requests()

    assert incomplete.error is not None
    assert complete == ToolRequested("f", {})


def test_a_call_without_a_name_is_an_error() -> None:
    calls = ToolCallAssembler()
    calls.add(0, "c1", None, "{}")

    assert calls.requests() == [ToolRequested("", {}, error="The tool call has no name.")]


@given(
    args=st.dictionaries(st.text('ab"\\é😀', max_size=3), st.integers(-9, 9) | st.text('x\u2028"{}', max_size=4)),
    data=st.data(),
)
def test_arguments_are_the_same_wherever_they_are_split(args: dict[str, int | str], data: st.DataObject) -> None:
    text, calls = dumps(args).decode(), ToolCallAssembler()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))

    calls.add(0, "c1", "f", None)
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        calls.add(0, None, None, text[start:end])

    assert calls.requests() == [ToolRequested("f", dict(args))]
