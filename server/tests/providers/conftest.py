"""What the tests of providers share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from cmdc_gateway.providers.litellm.library import close_connections
from cmdc_testkit.models import ScriptedModelServer


@pytest.fixture
async def server() -> AsyncIterator[ScriptedModelServer]:
    async with ScriptedModelServer() as server:
        yield server
        await close_connections()
