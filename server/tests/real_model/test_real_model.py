"""A real language model. The tests check that calls work, not what the model writes."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cmdc_gateway.kernel.signals import ModelFinished, ModelSignal, TextArrived
from cmdc_gateway.protocol.history import assistant, system, user
from cmdc_gateway.protocol.strict import parse_object
from cmdc_gateway.providers.aliases import target_from_config
from cmdc_gateway.providers.plugin import load_plugins
from cmdc_gateway.providers.provider import ModelError, ModelProvider, ModelRequest
from cmdc_gateway.providers.registry import ModelRegistry

pytestmark = [pytest.mark.real_model, pytest.mark.filterwarnings("ignore::DeprecationWarning:litellm")]


def _example() -> Any:
    """The example that starts the model. Examples are programs, not a package."""
    path = Path(__file__).parents[3] / "examples" / "real_model.py"
    spec = importlib.util.spec_from_file_location("real_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def api_base() -> Iterator[str]:
    example = _example()
    try:
        with example.start() as api_base:
            yield api_base
    except example.NotInstalled as error:
        pytest.fail(str(error))


@pytest.fixture
async def model(api_base: str) -> AsyncIterator[ModelProvider]:
    target = target_from_config("local:small", model=_example().MODEL, api_base=api_base, api_key_env=None, environ={})
    registry = ModelRegistry(aliases={"local:small": target}, plugins=load_plugins({}))
    yield registry.find("local:small")
    await registry.close()


async def ask(model: ModelProvider, *, max_tokens: int = 40, **options: Any) -> list[ModelSignal]:
    history = (system("Be brief."), user("Hello!"), assistant("Hello! How can I help?"), user("Name three colours."))
    request = ModelRequest("local:small", history, max_tokens=max_tokens, options=options)
    return [signal async for signal in model.stream(request)]


async def test_text_streams_and_usage_comes_last(model: ModelProvider) -> None:
    *chunks, finished = await ask(model, temperature=0, seed=1)

    assert len(chunks) > 1
    assert all(isinstance(chunk, TextArrived) and chunk.text for chunk in chunks)
    assert isinstance(finished, ModelFinished)
    assert finished.usage.prompt_tokens > 0
    assert 0 < finished.usage.completion_tokens <= 40
    assert finished.cost_usd == 0


async def test_max_tokens_is_respected(model: ModelProvider) -> None:
    *_, finished = await ask(model, max_tokens=3)

    assert isinstance(finished, ModelFinished)
    assert finished.usage.completion_tokens <= 3


async def test_a_response_schema_is_enforced(model: ModelProvider) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }

    chunks = await ask(
        model, response_format={"type": "json_schema", "json_schema": {"name": "colour", "schema": schema}}
    )

    response = parse_object("".join(chunk.text for chunk in chunks if isinstance(chunk, TextArrived)).encode())
    assert response["colour"] in {"red", "green", "blue"}


async def test_a_rejected_request_fails_with_a_reason(model: ModelProvider) -> None:
    request = ModelRequest("local:small", (user("word " * 20_000),))

    with pytest.raises(ModelError, match="status 400") as raised:
        _ = [signal async for signal in model.stream(request)]

    assert not raised.value.transient
