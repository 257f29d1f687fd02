"""The subcommands of `cmdc-gateway`: serve, keys, and audit."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import aclosing, contextmanager

from cmdc_gateway import __version__
from cmdc_gateway.command import (
    AuditQuery,
    audit_json,
    audit_table,
    key_list,
    key_new,
    parse_time,
    select_audit,
)
from cmdc_gateway.extensions import DuplicateExtension
from cmdc_gateway.settings import InvalidSetting, Settings, load_settings, store_address
from cmdc_gateway.store.errors import InvalidStoreURL, StoreUnavailable
from cmdc_gateway.store.factory import create_store
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
    except (InvalidSetting, DuplicateExtension) as error:
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
    _add_audit(commands.add_parser("audit", help="print the audit log: who decided what, and when"))
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="TOML file with keys, models, tools, budgets (GATEWAY_CONFIG)")


def _add_audit(audit: argparse.ArgumentParser) -> None:
    audit.add_argument("--store", metavar="URL", help="sqlite:///FILE (GATEWAY_STORE); a gateway may have it open")
    audit.add_argument("--json", action="store_true", help="print each entry as a line of JSON, with all members")
    audit.add_argument("--tenant", help="only entries of this tenant")
    audit.add_argument("--session", help="only entries of sessions with this id")
    audit.add_argument("--key", metavar="KEYID", help="only entries of this API key")
    audit.add_argument("--since", type=parse_time, default=0, metavar="TIME", help="only since then (ISO 8601, UTC)")
    audit.add_argument("--last", type=int, metavar="N", help="only the last N of the selected entries")


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
    query = AuditQuery(arguments.tenant, arguments.session, arguments.key, arguments.since, arguments.last)
    try:
        asyncio.run(_print_audit(store_address(arguments.store), query, as_json=arguments.json))
    except (StoreUnavailable, InvalidStoreURL) as error:
        raise InvalidSetting(f"GATEWAY_STORE: {error}") from None
    return 0


async def _print_audit(url: str, query: AuditQuery, *, as_json: bool) -> None:
    async with aclosing(select_audit(create_store(url), query)) as rows:
        if as_json:
            with _stdout():
                async for number, row in rows:
                    print(audit_json(number, row))
        else:
            _print(audit_table([row async for _, row in rows]))


def _print(lines: Iterable[str]) -> None:
    with _stdout():
        for line in lines:
            print(line)


@contextmanager
def _stdout() -> Generator[None]:
    """Stop printing without an error once the reader of a pipe has closed it."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
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
