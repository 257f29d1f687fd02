"""`python -m minimal_gateway WORKSPACE KEY=TENANT …`: the first line of its output is its URL."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

from minimal_gateway.gateway import Gateway
from minimal_gateway.server import Server


async def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="minimal_gateway")
    parser.add_argument("workspace", type=Path)
    parser.add_argument("keys", nargs="+", metavar="KEY=TENANT")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rpm", type=int, default=60, help="requests per minute and key; 0 for no limit")
    parser.add_argument("--callback-allow", action="append", default=[], metavar="NETWORK")
    parser.add_argument("--heartbeat", type=float, default=15.0, metavar="SECONDS")
    payload = parser.parse_args()
    keys = dict(pair.split("=", 1) for pair in payload.keys)
    gateway = Gateway(keys, payload.workspace, rpm=payload.rpm, callback_allow=payload.callback_allow)
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    await Server(gateway, heartbeat=payload.heartbeat).run(payload.port, stop, _print_url)


def _print_url(port: int) -> None:
    print(f"listening on http://127.0.0.1:{port}", flush=True)  # noqa: T201 - the parent process waits for this line


asyncio.run(main())
