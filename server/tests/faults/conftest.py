"""Fixtures of the fault tests: a gateway in its own process, and a callback tool."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from cmdc_testkit.gateways import GatewayProcess
from cmdc_testkit.receivers import Receiver

# Tools need approval only if a session asks for it.
CONFIG = """
[tools]
offered = ["read_file", "write_file", "shell", "ask_user"]
approval = []
"""


@pytest.fixture
async def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    """A gateway in its own process. The optional parameter is the grace period in ms."""
    settings = {"GATEWAY_GRACE_MS": str(getattr(request, "param", 30_000)), "GATEWAY_HEARTBEAT_MS": "1000"}
    async with GatewayProcess(tmp_path, config=CONFIG, forked=True, **settings) as gateway:
        yield gateway


@pytest.fixture
async def client(gateway: GatewayProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client() as client:
        yield client


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A callback tool that returns `done` and records its calls."""
    async with Receiver() as receiver:
        yield receiver
