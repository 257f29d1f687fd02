"""`python -m minimal_gateway WORKSPACE KEY=TENANT …`: the first line it prints says where it listens."""

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
    parser.add_argument("--rpm", type=int, default=60, help="requests a minute and key; 0 for any number")
    parser.add_argument("--callback-allow", action="append", default=[], metavar="NETWORK")
    parser.add_argument("--heartbeat", type=float, default=15.0, metavar="SECONDS")
    given = parser.parse_args()
    keys = dict(pair.split("=", 1) for pair in given.keys)
    gateway = Gateway(keys, given.workspace, rpm=given.rpm, callback_allow=given.callback_allow)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Server(gateway, heartbeat=given.heartbeat).run(given.port, stop, _say_where)


def _say_where(port: int) -> None:
    print(f"listening on http://127.0.0.1:{port}", flush=True)  # noqa: T201 - whoever started it waits for this line


asyncio.run(main())
