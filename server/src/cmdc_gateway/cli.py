"""The subcommands of `cmdc-gateway`: serve, keys, and audit."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from collections import deque
from collections.abc import Iterable, Sequence

from cmdc_gateway import __version__
from cmdc_gateway.command import AuditQuery, audit_json, audit_table, key_list, key_new, moment
from cmdc_gateway.settings import InvalidSetting, Settings, load_settings, store_address
from cmdc_gateway.store.store import StoreUnavailable
from cmdc_gateway.store.url import audit_from_url
from cmdc_gateway.tenancy.keys import DEFAULT_TENANT

_GC_THRESHOLD = 10_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; 2 for an invalid setting."""
    arguments = _parser().parse_args(argv)
    try:
        match arguments.command:
            case "keys":
                return _keys(arguments)
            case "audit":
                return _audit(arguments)
            case _:
                return _serve(
                    load_settings(
                        {
                            "host": arguments.host,
                            "port": arguments.port,
                            "store": arguments.store,
                            "config": arguments.config,
                        }
                    )
                )
    except InvalidSetting as error:
        print(f"cmdc-gateway: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cmdc-gateway",
        description="An AI agent behind HTTP, SSE and WebSocket.",
        epilog="Every setting is also an environment variable, GATEWAY_…; see API.md.",
    )
    parser.add_argument("--version", action="version", version=f"cmdc-gateway {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the gateway until SIGTERM or SIGINT")
    serve.add_argument("--host", help="address to listen on (GATEWAY_HOST, 127.0.0.1)")
    serve.add_argument("--port", help="port to listen on, 0 for any free port (GATEWAY_PORT, 4000)")
    serve.add_argument("--store", metavar="URL", help="sqlite:///FILE or memory: (GATEWAY_STORE)")
    _add_config(serve)
    keys = commands.add_parser("keys", help="create and list API keys")
    what = keys.add_subparsers(dest="what", required=True, metavar="WHAT")
    new = what.add_parser("new", help="print a new key, and its hash for the configuration file")
    new.add_argument("--tenant", default=DEFAULT_TENANT, help="tenant of the key (default)")
    _add_config(what.add_parser("list", help="print keyId and tenant of every configured key"))
    _add_audit(commands.add_parser("audit", help="show who decided what, on which digest, and when"))
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="TOML file with keys, models, tools, budgets (GATEWAY_CONFIG)")


def _add_audit(audit: argparse.ArgumentParser) -> None:
    audit.add_argument("--store", metavar="URL", help="sqlite:///FILE (GATEWAY_STORE); a gateway may be using it")
    audit.add_argument("--json", action="store_true", help="one JSON object a line, with everything there is")
    audit.add_argument("--tenant", help="only what was decided in this tenant")
    audit.add_argument("--session", help="only what was decided in sessions of this id")
    audit.add_argument("--key", metavar="KEYID", help="only what was decided with this key")
    audit.add_argument("--since", type=moment, default=0, metavar="TIME", help="only from then on (ISO 8601, UTC)")
    audit.add_argument("--last", type=int, metavar="N", help="only the last N of them")


def _keys(arguments: argparse.Namespace) -> int:
    if arguments.what == "new":
        if not arguments.tenant.isprintable() or not arguments.tenant:
            raise InvalidSetting(
                f"--tenant: {arguments.tenant!r} is not a valid name; it must be printable and not empty"
            )
        _print(key_new(arguments.tenant))
    else:
        _print(key_list(load_settings({"config": arguments.config}).tenants))
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    query = AuditQuery(arguments.tenant, arguments.session, arguments.key, arguments.since)
    try:
        rows = (entry for entry in audit_from_url(store_address(arguments.store)) if query.wants(entry[1]))
        chosen = rows if arguments.last is None else deque(rows, maxlen=max(0, arguments.last))
        _print(audit_json(chosen) if arguments.json else audit_table(chosen))
    except (StoreUnavailable, ValueError) as error:
        raise InvalidSetting(f"GATEWAY_STORE: {error}") from None
    return 0


def _print(lines: Iterable[str]) -> None:
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _serve(settings: Settings) -> int:
    # Imported late, so that an invalid setting is reported without delay.
    import uvloop  # noqa: PLC0415

    from cmdc_gateway import logs  # noqa: PLC0415
    from cmdc_gateway.server import serve  # noqa: PLC0415

    logs.configure(settings.log_level)
    # Events leave many short-lived objects and no cycles. With the default threshold of 700, collections that also scan
    # all loaded modules took an eighth of the time of a streaming gateway.
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 10, 10)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(settings))
