"""What the examples are run against, and the browser."""

import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from cmdc_testkit.gateways import Served, serving

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves the folder of the tests out


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncGenerator[Served]:
    """A gateway of this test's own, with many heartbeats."""
    async with serving(tmp_path, heartbeat_ms=50) as served:
        yield served
