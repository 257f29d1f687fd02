"""Both drivers of the scripted model keep the promises of a provider, and so does every way to the one outside."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from cmdc_gateway.providers.direct import DirectProvider
from cmdc_gateway.providers.endpoints import endpoint
from cmdc_gateway.providers.litellm import LitellmProvider
from cmdc_gateway.providers.pool import ConnectionPool
from cmdc_gateway.providers.provider import ModelProvider
from cmdc_gateway.providers.retry import RetryingProvider
from cmdc_gateway.providers.scripted import ScriptedProvider
from cmdc_gateway.providers.target import ModelTarget
from cmdc_gateway.testing.providers import ProviderContract
from cmdc_testkit.models import ScriptedModelServer


class TestScripted(ProviderContract):
    @pytest.fixture
    def provider(self) -> ModelProvider:
        return ScriptedProvider()


class TestRetryingThatDoesNotRetry(ProviderContract):
    @pytest.fixture
    def provider(self) -> ModelProvider:
        return RetryingProvider(ScriptedProvider(), delays=())


# litellm asks pydantic for what will be gone one day.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:litellm")
class TestLitellm(ProviderContract):
    @pytest.fixture
    async def provider(self, server: ScriptedModelServer) -> ModelProvider:
        return LitellmProvider(ModelTarget("openai/scripted", server.base_url, "none"))


class TestDirect(ProviderContract):
    @pytest.fixture
    async def provider(self, server: ScriptedModelServer) -> AsyncIterator[ModelProvider]:
        pool, target = ConnectionPool(), ModelTarget("openai/scripted", server.base_url, "none")
        place = endpoint(target)
        assert place is not None
        yield DirectProvider(target, place, pool)
        await pool.close()
