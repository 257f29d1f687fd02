"""Experiment 7: slow clients, which never complete their requests.

HTTP-5: each is closed in time, with 408 if it had sent a part of a request, and does not delay others.
"""

import asyncio
import time
from pathlib import Path

from cmdc_testkit.experiments import Experiment
from cmdc_testkit.gateways import KEY, GatewayProcess
from cmdc_testkit.raw_connections import RawConnection, RawResponse, connect
from cmdc_testkit.resource_usage import HealthProbe, ResourceUsage, mib, ms, p99

HEAD = f"POST /v1/sessions HTTP/1.1\r\nHost: a\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n".encode()
LENGTH, CHUNKED = b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"GET /v1/sessions/s/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
# What is sent, what is repeated after it slowly, and the status of the response before the connection is closed.
HEADERS = [
    (b"", b"", None),
    (b"\r\n", b"\r\n", None),
    (b"GE", b"", 408),
    (b"GET /", b"u", 408),
    (HEAD, b"", 408),
    (HEAD, b"X: y\r\n", 408),
    (HEAD + b"X: ", b"x", 408),
    (UPGRADE, b"", 408),
    (UPGRADE + b"Sec-WebSocket-Key: ", b"A", 408),
]
BODIES = [
    (HEAD + LENGTH, b"", 408),
    (HEAD + LENGTH + b'{"model": "', b"x", 408),
    (HEAD + CHUNKED, b"", 408),
    (HEAD + CHUNKED, b"1\r\nx\r\n", 408),
    (HEAD + CHUNKED + b"3;", b"x", 408),
    (HEAD + CHUNKED + b'c\r\n{"model": "x\r\n0\r\nX: ', b"x", 408),
]


async def test_slow_clients_are_closed_in_time_and_do_not_delay_others(experiment: Experiment, tmp_path: Path) -> None:
    """HTTP-5: half of them do not complete their headers, half their body; some are silent, some slow."""
    each = experiment.trials(short=60, long=1_000) // 2
    header_seconds, body_seconds, margin = (10, 30, 5) if experiment.long else (1, 2, 8)
    gateway_process = GatewayProcess(
        tmp_path,
        GATEWAY_HEADER_TIMEOUT_MS=f"{header_seconds * 1000}",
        GATEWAY_BODY_TIMEOUT_MS=f"{body_seconds * 1000}",
    )
    async with gateway_process as gateway:
        before = ResourceUsage.of(gateway.pid)
        async with HealthProbe(gateway.port) as health, asyncio.timeout(body_seconds + 60):
            ends = await asyncio.gather(
                *(_time_slow_client(gateway.port, *HEADERS[number % len(HEADERS)]) for number in range(each)),
                *(_time_slow_client(gateway.port, *BODIES[number % len(BODIES)]) for number in range(each)),
            )
        after = ResourceUsage.of(gateway.pid)
        log = gateway.log()

    headers, bodies = max(ends[:each]), max(ends[each:])
    experiment.record("slow clients", 2 * each)
    experiment.record(f"headers ({header_seconds} s) closed within", f"{headers:.1f} s")
    experiment.record(f"bodies ({body_seconds} s) closed within", f"{bodies:.1f} s")
    experiment.record("/healthz p99", ms(p99(health.latencies)))
    experiment.record("memory", mib(after.memory - before.memory))
    assert headers <= header_seconds + margin
    assert bodies <= body_seconds + margin
    assert p99(health.latencies) <= (0.1 if experiment.long else 1)
    assert log.count("\n") <= 1, "slow clients do not fill the log"


async def _time_slow_client(port: int, first: bytes, drop: bytes, status: int | None) -> float:
    """Send a part of a request slowly; return the seconds until the response and the close."""
    begun = time.monotonic()
    async with connect(port, first) as connection:
        sending = asyncio.create_task(_send_slowly(connection, drop)) if drop else None
        try:
            if status is not None:
                answer = await connection.read_response(within=120)
                assert isinstance(answer, RawResponse), answer
                assert (answer.status, answer.closes) == (status, True), answer
            assert await connection.read_end(within=120) == "closed"
        finally:
            if sending is not None:
                sending.cancel()
    return time.monotonic() - begun


async def _send_slowly(connection: RawConnection, drop: bytes) -> None:
    while True:
        await asyncio.sleep(0.5)
        await connection.send(drop)
