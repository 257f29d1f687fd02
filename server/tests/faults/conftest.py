"""What the tests of faults share: a gateway in a process of its own, and tools that count."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from cmdc_testkit.gateways import GatewayProcess
from cmdc_testkit.receivers import Receiver

# Every tool, and none that needs a person unless its session says so.
CONFIG = """
[tools]
offered = ["read_file", "write_file", "shell", "ask_user"]
approval = []
"""


@pytest.fixture
async def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    """A gateway as a process; its parameter, where it has one, is the grace period in ms."""
    settings = {"GATEWAY_GRACE_MS": str(getattr(request, "param", 30_000)), "GATEWAY_HEARTBEAT_MS": "1000"}
    async with GatewayProcess(tmp_path, config=CONFIG, forked=True, **settings) as gateway:
        yield gateway


@pytest.fixture
async def client(gateway: GatewayProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client() as client:
        yield client


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A callback tool that answers `done`, and counts."""
    async with Receiver() as receiver:
        yield receiver
