"""The gateway that the examples run against."""

import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from cmdc_testkit.gateways import InProcessGateway, in_process_gateway

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode does not add the test folder


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[InProcessGateway]:
    """A gateway for one test, with frequent heartbeats."""
    async with in_process_gateway(tmp_path, heartbeat_ms=50) as served:
        yield served
