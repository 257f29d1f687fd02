"""What holds for litellm alone: when it is loaded, what that does, and what it knows of hosted models."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from cmdc_gateway.providers.hosted import HOSTED
from cmdc_gateway.providers.litellm import LitellmProvider
from cmdc_gateway.providers.provider import ModelError
from cmdc_gateway.providers.target import ModelTarget
from cmdc_gateway.testing.providers import answer, request

# litellm asks pydantic for what will be gone one day.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:litellm")

KEY = "k3y-of-the-0perator-8f2c1d"


async def test_an_option_that_a_hosted_model_does_not_take_is_an_error_not_dropped() -> None:
    hosted = LitellmProvider(ModelTarget("openai/gpt-4o", api_key=KEY))

    with pytest.raises(ModelError, match="reasoning_effort") as refused:
        await answer(hosted, request("Hello", options={"reasoning_effort": "low"}))

    assert not refused.value.transient


async def test_litellm_knows_the_hosted_providers() -> None:
    await LitellmProvider(ModelTarget("openai/none")).prepare()

    litellm: Any = sys.modules["litellm"]
    known = {provider.value for provider in litellm.LlmProviders}
    assert {provider.prefix for provider in HOSTED.values()} <= known


# -- the import ---------------------------------------------------------------------------------------------------------


async def test_importing_this_module_does_not_import_litellm() -> None:
    code = "import sys, cmdc_gateway.providers.registry;sys.exit('litellm' in sys.modules or 'openai' in sys.modules or 'aiohttp' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)

    assert await process.wait() == 0


async def test_preparing_connects_to_nobody_and_prints_nothing() -> None:
    code = """
import asyncio, sys

def watch(event, args):
    if event in ("socket.getaddrinfo", "socket.connect"):
        print(event, args)

sys.addaudithook(watch)
from cmdc_gateway.providers.litellm import LitellmProvider
from cmdc_gateway.providers.target import ModelTarget
asyncio.run(LitellmProvider(ModelTarget("openai/none")).prepare())
"""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=pipe, stderr=pipe)

    assert await process.communicate() == (b"", b"")
    assert process.returncode == 0


def test_the_key_is_not_in_the_targets_repr() -> None:
    assert KEY not in repr(ModelTarget("openai/m", "http://127.0.0.1/v1", KEY))
