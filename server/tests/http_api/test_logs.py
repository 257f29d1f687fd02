"""The server's log: JSON lines with the ids of HTTP request, session and run, and no payloads."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cmdc_gateway.tenancy.keys import key_id
from cmdc_testkit.conversations import Conversation
from cmdc_testkit.gateways import KEY, GatewayProcess

SECRET = "do-not-log-this"
MINE = key_id(sha256(KEY.encode()).hexdigest())


async def log_of_a_run(folder: Path, level: str) -> tuple[list[dict[str, Any]], str, str]:
    """The log lines of one run at this level, and the ids of its session and request."""
    async with GatewayProcess(folder, GATEWAY_LOG_LEVEL=level) as gateway, gateway.client() as client:
        talk = await Conversation.begin(client, systemPrompt=SECRET)
        request_id = await talk.prompt(f"{SECRET} there")
        await talk.events(request_id)
        await client.get(f"/v1/nothing/{SECRET}", params={"q": SECRET})
        await gateway.stop()
        lines = [line for line in gateway.log().splitlines() if line.startswith("{")]
        assert SECRET not in gateway.log()
    return [json.loads(line) for line in lines], talk.id, request_id


@pytest.mark.parametrize("level", ["info", "debug"])
async def test_the_end_of_a_run_is_logged_with_its_ids_and_figures(tmp_path: Path, level: str) -> None:
    lines, session_id, request_id = await log_of_a_run(tmp_path, level)

    [ended] = [line for line in lines if line["event"] == "agent_end"]
    assert ended == {
        "event": "agent_end",
        "level": "info",
        "timestamp": ended["timestamp"],
        "tenant": "default",
        "session_id": session_id,
        "request_id": request_id,
        "key_id": MINE,
        "steps": 1,
        "calls": 0,
        "tokens": ended["tokens"],
    }


async def test_each_request_is_logged_at_level_debug_by_its_route_and_not_its_url(tmp_path: Path) -> None:
    lines, session_id, _ = await log_of_a_run(tmp_path, "debug")

    requests = [line for line in lines if line["event"] == "http_request"]
    [prompt] = [line for line in requests if line["route"] == "/v1/sessions/{session_id}/prompt"]
    [unknown] = [line for line in requests if line["status"] == 404]
    assert (prompt["method"], prompt["status"], prompt["key_id"]) == ("POST", 202, MINE)
    assert prompt["session_id"] == session_id
    assert prompt["ms"] >= 0
    assert unknown["route"] is None
    assert "session_id" not in unknown, "the previous request on the connection had one"
    assert len({line["http_request_id"] for line in requests}) == len(requests)


async def test_requests_are_not_logged_by_default(tmp_path: Path) -> None:
    lines, _, _ = await log_of_a_run(tmp_path, "info")

    assert "http_request" not in {line["event"] for line in lines}
