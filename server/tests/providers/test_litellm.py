"""What applies only to models that are called through litellm: its import, and what it knows about hosted models."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from cmdc_gateway.providers.litellm.provider import LitellmProvider
from cmdc_gateway.providers.provider import ModelError
from cmdc_gateway.providers.target import ModelTarget
from cmdc_gateway.providers.vendors import VENDORS
from cmdc_gateway.testing.providers import collect, request

# litellm uses deprecated functions of pydantic.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:litellm")

KEY = "k3y-of-the-0perator-8f2c1d"


async def test_an_option_that_a_hosted_model_does_not_accept_is_an_error() -> None:
    hosted = LitellmProvider(ModelTarget("openai/gpt-4o", api_key=KEY))

    with pytest.raises(ModelError, match="reasoning_effort") as raised:
        await collect(hosted, request("Hello", options={"reasoning_effort": "low"}))

    assert not raised.value.transient


async def test_litellm_supports_every_vendor() -> None:
    await LitellmProvider(ModelTarget("openai/none")).prepare()

    litellm: Any = sys.modules["litellm"]
    known = {provider.value for provider in litellm.LlmProviders}
    assert {vendor.prefix for vendor in VENDORS.values()} <= known


# -- the import ---------------------------------------------------------------------------------------------------------


async def test_loading_the_plugins_imports_no_client_library() -> None:
    code = """
import sys
from cmdc_gateway.providers.plugin import load_plugins
load_plugins({})
sys.exit(not {"litellm", "openai", "aiohttp"}.isdisjoint(sys.modules))
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)

    assert await process.wait() == 0


async def test_preparing_opens_no_connection_and_prints_nothing() -> None:
    code = """
import asyncio, sys

def audit(event, args):
    if event in ("socket.getaddrinfo", "socket.connect"):
        print(event, args)

sys.addaudithook(audit)
from cmdc_gateway.providers.litellm.provider import LitellmProvider
from cmdc_gateway.providers.target import ModelTarget
asyncio.run(LitellmProvider(ModelTarget("openai/none")).prepare())
"""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=pipe, stderr=pipe)

    assert await process.communicate() == (b"", b"")
    assert process.returncode == 0


def test_the_repr_of_a_target_does_not_contain_the_key() -> None:
    assert KEY not in repr(ModelTarget("openai/m", "http://127.0.0.1/v1", KEY))
