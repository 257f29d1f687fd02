"""Run the suite against the gateway of this repository, as an implementer would: a process and a target file.

    python conformance/run_against_gateway.py                    profile full with the model inside the server, then
                                                                 all but crashes with the suite's own model
    python conformance/run_against_gateway.py --driver model     only one of them
    python conformance/run_against_gateway.py --examples 2000    other arguments go to cmdc-conformance

Three gateways are started on loopback: the one under test, one with a low rate limit, and one that trims its logs. All
are killed at the end.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx
from cmdc_conformance.__main__ import run_command
from cmdc_conformance.findings import STREAM_VARIANTS
from cmdc_conformance.reports.report import Report
from cmdc_conformance.schemas import EVENTS

KEYS = {
    "first": "first-key-of-the-gateway",
    "second": "second-key-of-the-gateway",
    "revoked": "revoked-key-of-the-gateway",
    "leaving": "leaving-key-of-the-gateway",
}
# What survives a crash does not depend on the model driver, so it is tested once.
PROFILE = {"scripted": "full", "model": "interactive,tools,ws,resume,hardening"}
ORIGIN = "https://app.example"
TOOLS = ["read_file", "list_dir", "glob", "grep", "write_file", "shell", "ask_user"]


class Instance(NamedTuple):
    """The folder and the port of one gateway."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def main(arguments: list[str]) -> int:
    """Run the suite, or a command of the target file; return the exit status."""
    match arguments:
        case ["start" | "stop" | "kill" as command, folder, port]:
            instance = Instance(Path(folder), int(port))
            start(instance) if command == "start" else send_signal(
                instance, signal.SIGKILL if command == "kill" else signal.SIGTERM
            )
            return 0
        case ["admit" | "revoke" as command, folder, port, model_port]:
            instance = Instance(Path(folder), int(port))
            write_config(instance, int(model_port), *([KEYS["leaving"]] if command == "admit" else []))
            send_signal(instance, signal.SIGHUP)
            return 0
        case _:
            parser = argparse.ArgumentParser(description=__doc__, add_help=False)
            parser.add_argument("--driver", choices=("scripted", "model"), action="append")
            parser.add_argument("--report", type=Path)
            parsed, rest = parser.parse_known_args(arguments)
            return max(
                run_with_driver(driver, rest, parsed.report) for driver in parsed.driver or ("scripted", "model")
            )


def run_with_driver(driver: str, rest: list[str], report: Path | None) -> int:
    """Run the suite with this model driver; its report goes into a subfolder."""
    with tempfile.TemporaryDirectory(prefix="cmdc-conformance-") as name:
        folder, model_port = Path(name), free_port()
        with (
            gateway(folder / "tested", model_port) as instance,
            gateway(folder / "limited", model_port, GATEWAY_RATE_LIMIT_RPM="60") as limited,
            gateway(folder / "trimmed", model_port, GATEWAY_REPLAY_EVENTS="20") as trimmed,
        ):
            target = folder / "target.toml"
            target.write_text(target_of(instance, limited, trimmed, driver, model_port), encoding="utf-8")
            options = [] if "--profile" in rest else ["--profile", PROFILE[driver]]
            if report is not None:
                options += ["--report", f"{report / driver}"]
            status, result = run_command(["--target", f"{target}", *options, *rest])
            part = {"--profile", "--only", "--via", "--transport", "--replay"} & {*rest}
            return status if part or result is None else status or missing_coverage(result)


def missing_coverage(report: Report) -> int:
    """Print the events that a variant did not receive; return 1 if there is one."""
    missing = [
        f"{name} ({variant})"
        for name in EVENTS
        for variant in STREAM_VARIANTS
        if not report.coverage.get(name, {}).get(variant)
    ]
    if missing:
        print(f"not received: {', '.join(missing)}")
    return 1 if missing else 0


def target_of(instance: Instance, limited: Instance, trimmed: Instance, driver: str, model_port: int) -> str:
    """The target file; README.md describes the format."""
    command = f"'{sys.executable}' '{Path(__file__).resolve()}'"
    where = f"{instance.folder} {instance.port}"
    hooks = "\n".join(
        [
            *(f'{name} = "{command} {name} {where}"' for name in ("start", "stop", "kill")),
            *(f'{name} = "{command} {name} {where} {model_port}"' for name in ("admit", "revoke")),
        ]
    )
    keys = "\n".join(f'{name} = "{key}"' for name, key in KEYS.items())
    model = "conformance:model" if driver == "model" else "scripted:conformance"
    return f"""
[target]
url = "{instance.url}"
driver = "{driver}"
model = "{model}"
model_listen = "127.0.0.1:{model_port}"
limited_url = "{limited.url}"
trimmed_url = "{trimmed.url}"
origin = "{ORIGIN}"

[keys]
{keys}

[limits]
header_timeout_ms = 2000
body_timeout_ms = 3000

[hooks]
{hooks}

[timing]
scale = {2 if driver == "model" else 1}
"""


# -- processes -----------------------------------------------------------------------------------------------------------


@contextmanager
def gateway(folder: Path, model_port: int, **environ: str) -> Generator[Instance]:
    """Start a gateway, revoke one of its keys, and kill it on exit."""
    folder.mkdir()
    instance = Instance(folder, free_port())
    (folder / "environ").write_text("\n".join(f"{name}={value}" for name, value in environ.items()))
    write_config(instance, model_port, KEYS["revoked"])
    start(instance)
    try:
        wait_until_ready(instance)
        write_config(instance, model_port)
        send_signal(instance, signal.SIGHUP)
        yield instance
    finally:
        send_signal(instance, signal.SIGKILL)


def write_config(instance: Instance, model_port: int, *more_keys: str) -> None:
    """Write the gateway's configuration file."""
    tenants = {KEYS["first"]: "one", KEYS["second"]: "two", **dict.fromkeys(more_keys, "one")}
    keys = "\n".join(f'"{key}" = "{tenant}"' for key, tenant in tenants.items())
    (instance.folder / "gateway.toml").write_text(
        f"""
[api_keys]
{keys}

[models."conformance:model"]
model = "scripted"
api_base = "http://127.0.0.1:{model_port}/v1"

[tools]
offered = {TOOLS}
""",
        encoding="utf-8",
    )


def start(instance: Instance) -> None:
    """Start the gateway in a process, once the previous one has exited; do not wait until it is ready."""
    with suppress(FileNotFoundError):
        wait_until_gone(int((instance.folder / "pid").read_text()))
    more = dict(line.split("=", 1) for line in (instance.folder / "environ").read_text().splitlines())
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")},
        "GATEWAY_CONFIG": f"{instance.folder / 'gateway.toml'}",
        "GATEWAY_STORE": f"sqlite:///{instance.folder / 'gateway.db'}",
        "GATEWAY_PORT": f"{instance.port}",
        "GATEWAY_RATE_LIMIT_RPM": "0",
        "GATEWAY_CALLBACK_ALLOW": "127.0.0.0/8",
        "GATEWAY_CORS_ORIGINS": ORIGIN,
        "GATEWAY_HEARTBEAT_MS": "1000",
        "GATEWAY_GRACE_MS": "3000",
        "GATEWAY_HEADER_TIMEOUT_MS": "2000",
        "GATEWAY_BODY_TIMEOUT_MS": "3000",
        "GATEWAY_LOG_LEVEL": "warning",
        **more,
    }
    with (instance.folder / "gateway.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cmdc_gateway", "serve"], env=environ, stdout=log, stderr=log, start_new_session=True
        )
    (instance.folder / "pid").write_text(f"{process.pid}")


def send_signal(instance: Instance, number: signal.Signals) -> None:
    """Send the gateway a signal, if it is still running."""
    with suppress(ProcessLookupError):
        os.kill(int((instance.folder / "pid").read_text()), number)


def wait_until_gone(pid: int, *, within: float = 10) -> None:
    """Wait until a process has exited; it stops accepting connections some time before."""
    deadline = time.monotonic() + within
    with suppress(FileNotFoundError, ProcessLookupError):  # the latter if it exits while the file is read
        while time.monotonic() < deadline:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z"):
                return  # a zombie: its parent has not reaped it
            time.sleep(0.02)


def wait_until_ready(instance: Instance, *, within: float = 60) -> None:
    """Wait until /readyz returns 200."""
    deadline = time.monotonic() + within
    with httpx.Client(trust_env=False, timeout=5) as client:
        while True:
            try:
                if client.get(f"{instance.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline:
                raise SystemExit(f"the gateway did not start:\n{(instance.folder / 'gateway.log').read_text()[-2000:]}")
            time.sleep(0.05)


def free_port() -> int:
    """A free port on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
