"""Both drivers of the scripted model keep the promises of a provider."""

from __future__ import annotations

import pytest
from cmdc_gateway.providers.litellm import LitellmProvider, ModelTarget
from cmdc_gateway.providers.provider import ModelProvider
from cmdc_gateway.providers.retry import Retrying
from cmdc_gateway.providers.scripted import ScriptedProvider
from cmdc_gateway.testing.models import ScriptedModelServer
from cmdc_gateway.testing.providers import ProviderContract


class TestScripted(ProviderContract):
    @pytest.fixture
    def provider(self) -> ModelProvider:
        return ScriptedProvider()


class TestRetryingThatDoesNotRetry(ProviderContract):
    @pytest.fixture
    def provider(self) -> ModelProvider:
        return Retrying(ScriptedProvider(), delays=())


# litellm asks pydantic for what will be gone one day.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:litellm")
class TestLitellm(ProviderContract):
    @pytest.fixture
    async def provider(self, server: ScriptedModelServer) -> ModelProvider:
        return LitellmProvider(ModelTarget("openai/scripted", server.base_url, "none"))
