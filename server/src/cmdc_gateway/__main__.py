"""The command `cmdc-gateway`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from cmdc_gateway import __version__
from cmdc_gateway.settings import Settings, WrongSetting, load_settings
from cmdc_gateway.tenancy.keys import KeyRing, new_key


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    given = _parser().parse_args(argv)
    if given.command == "keys":
        return _new_key()
    try:
        settings = load_settings({"host": given.host, "port": given.port, "store": given.store, "config": given.config})
        return _serve(settings)
    except WrongSetting as flaw:
        print(f"cmdc-gateway: {flaw}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cmdc-gateway",
        description="An AI agent behind HTTP, SSE and WebSocket.",
        epilog="Every setting is also an environment variable, GATEWAY_…; API.md lists them.",
    )
    parser.add_argument("--version", action="version", version=f"cmdc-gateway {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the gateway until it is told to stop")
    serve.add_argument("--host", help="address to listen on (GATEWAY_HOST, 127.0.0.1)")
    serve.add_argument("--port", help="port to listen on, 0 for any free one (GATEWAY_PORT, 4000)")
    serve.add_argument("--store", metavar="URL", help="sqlite:///FILE or memory: (GATEWAY_STORE)")
    serve.add_argument("--config", metavar="FILE", help="TOML file of keys, models, tools, budgets (GATEWAY_CONFIG)")
    keys = commands.add_parser("keys", help="make API keys")
    keys.add_subparsers(dest="what", required=True, metavar="WHAT").add_parser(
        "new", help="print a new key, and the hash of it to put into the configuration"
    )
    return parser


def _new_key() -> int:
    made = new_key()
    (caller,) = KeyRing({made.stored: "default"}).callers()
    print(f"key      {made.key}")
    print(f"keyId    {caller.key_id}")
    print("Give the key to its user. The server needs only its hash, in the file that GATEWAY_CONFIG names:")
    print(f'\n[api_keys]\n"{made.stored}" = "default"')
    return 0


def _serve(settings: Settings) -> int:
    # Imported here, so that a wrong setting is told at once.
    import uvloop  # noqa: PLC0415

    from cmdc_gateway import logs  # noqa: PLC0415
    from cmdc_gateway.server import serve  # noqa: PLC0415

    logs.configure(settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(settings))


if __name__ == "__main__":
    raise SystemExit(main())
