"""The contract test of providers, for every implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from cmdc_gateway.providers.chat_completions.endpoints import find_endpoint
from cmdc_gateway.providers.chat_completions.pool import ConnectionPool
from cmdc_gateway.providers.chat_completions.provider import ChatCompletionsProvider
from cmdc_gateway.providers.litellm.provider import LitellmProvider
from cmdc_gateway.providers.provider import ModelProvider
from cmdc_gateway.providers.retry import RetryingProvider
from cmdc_gateway.providers.scripted.provider import ScriptedProvider
from cmdc_gateway.providers.target import ModelTarget
from cmdc_gateway.testing.providers import ProviderContract
from cmdc_testkit.models import ScriptedModelServer


class TestScripted(ProviderContract):
    @pytest.fixture
    def provider(self) -> ModelProvider:
        return ScriptedProvider()


class TestRetryingWithoutDelays(ProviderContract):
    @pytest.fixture
    def provider(self) -> ModelProvider:
        return RetryingProvider(ScriptedProvider(), delays=())


# litellm uses deprecated functions of pydantic.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:litellm")
class TestLitellm(ProviderContract):
    @pytest.fixture
    async def provider(self, server: ScriptedModelServer) -> ModelProvider:
        return LitellmProvider(ModelTarget("openai/scripted", server.base_url, "none"))


class TestChatCompletions(ProviderContract):
    @pytest.fixture
    async def provider(self, server: ScriptedModelServer) -> AsyncIterator[ModelProvider]:
        pool, target = ConnectionPool(), ModelTarget("openai/scripted", server.base_url, "none")
        endpoint = find_endpoint(target)
        assert endpoint is not None
        yield ChatCompletionsProvider(target, endpoint, pool)
        await pool.close()
