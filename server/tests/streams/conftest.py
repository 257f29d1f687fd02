from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from cmdc_testkit.gateways import InProcessGateway, in_process_gateway


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[InProcessGateway]:
    """A gateway with default settings."""
    async with in_process_gateway(tmp_path) as served:
        yield served


@pytest.fixture
async def client(served: InProcessGateway) -> AsyncIterator[httpx.AsyncClient]:
    """The first tenant's HTTP client."""
    async with served.client() as client:
        yield client


@pytest.fixture
async def session(client: httpx.AsyncClient) -> str:
    """The id of a session with the scripted model, `ask_user`, and `write_file`, which requires approval."""
    settings = {"model": "scripted:x", "tools": ["ask_user", "write_file"], "plugins": ["human_approval"]}
    created = await client.post("/v1/sessions", json=settings)
    assert created.status_code == 201, created.text
    return created.json()["sessionId"]
