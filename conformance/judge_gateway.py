"""Judge the gateway of this repository, as an implementer would judge theirs: started as a process, by a target file.

    python conformance/judge_gateway.py                     profile full with the model inside the server, then all but
                                                            its crashes with the suite's own model
    python conformance/judge_gateway.py --driver model      with one of them
    python conformance/judge_gateway.py --examples 2000     long: arguments go to cmdc-conformance

Three gateways are started on loopback: the one that is judged, one whose rate limit can be reached, and one that trims
its logs. All are gone at the end.
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
from cmdc_conformance.__main__ import judged as judge
from cmdc_conformance.report import Report
from cmdc_conformance.schemas import EVENTS

KEYS = {
    "first": "first-key-of-the-gateway",
    "second": "second-key-of-the-gateway",
    "revoked": "revoked-key-of-the-gateway",
    "leaving": "leaving-key-of-the-gateway",
}
# What survives a crash does not depend on who answers for the model, and is judged once.
PROFILE = {"scripted": "full", "model": "interactive,tools,ws,resume,hardening"}
FACES = ("raw/sse", "raw/ws", "sdk/sse", "sdk/ws")
ORIGIN = "https://app.example"
TOOLS = ["read_file", "list_dir", "glob", "grep", "write_file", "shell", "ask_user"]


class Place(NamedTuple):
    """Where one gateway lives."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def main(arguments: list[str]) -> int:
    """Run one of the commands; return the exit status."""
    match arguments:
        case ["start" | "stop" | "kill" as command, folder, port]:
            place = Place(Path(folder), int(port))
            start(place) if command == "start" else end(place, signal.SIGKILL if command == "kill" else signal.SIGTERM)
            return 0
        case ["admit" | "revoke" as command, folder, port, model_port]:
            place = Place(Path(folder), int(port))
            write_config(place, int(model_port), *([KEYS["leaving"]] if command == "admit" else []))
            end(place, signal.SIGHUP)
            return 0
        case _:
            parser = argparse.ArgumentParser(description=__doc__, add_help=False)
            parser.add_argument("--driver", choices=("scripted", "model"), action="append")
            parser.add_argument("--report", type=Path)
            wanted, rest = parser.parse_known_args(arguments)
            return max(judged(driver, rest, wanted.report) for driver in wanted.driver or ("scripted", "model"))


def judged(driver: str, rest: list[str], report: Path | None) -> int:
    """Judge a gateway with this driver; its report goes into a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="cmdc-conformance-") as name:
        folder, model_port = Path(name), free_port()
        with (
            gateway(folder / "judged", model_port) as place,
            gateway(folder / "limited", model_port, GATEWAY_RATE_LIMIT_RPM="60") as limited,
            gateway(folder / "trimmed", model_port, GATEWAY_REPLAY_EVENTS="20") as trimmed,
        ):
            target = folder / "target.toml"
            target.write_text(target_of(place, limited, trimmed, driver, model_port), encoding="utf-8")
            options = [] if "--profile" in rest else ["--profile", PROFILE[driver]]
            if report is not None:
                options += ["--report", f"{report / driver}"]
            status, told = judge(["--target", f"{target}", *options, *rest])
            part = {"--profile", "--only", "--via", "--transport", "--replay"} & {*rest}
            return status if part or told is None else status or unseen(told)


def unseen(report: Report) -> int:
    """Say which of the fifteen events was not seen on which face; 1 if there is one."""
    missing = [f"{name} ({face})" for name in EVENTS for face in FACES if not report.coverage.get(name, {}).get(face)]
    if missing:
        print(f"not seen: {', '.join(missing)}")
    return 1 if missing else 0


def target_of(place: Place, limited: Place, trimmed: Place, driver: str, model_port: int) -> str:
    """The target file, as SERVERS.md describes it."""
    command = f"'{sys.executable}' '{Path(__file__).resolve()}'"
    where = f"{place.folder} {place.port}"
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
url = "{place.url}"
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


# -- the gateway's life --------------------------------------------------------------------------------------------------


@contextmanager
def gateway(folder: Path, model_port: int, **environ: str) -> Generator[Place]:
    """A gateway that serves while this lasts; one key of its file is taken away once it does."""
    folder.mkdir()
    place = Place(folder, free_port())
    (folder / "environ").write_text("\n".join(f"{name}={value}" for name, value in environ.items()))
    write_config(place, model_port, KEYS["revoked"])
    start(place)
    try:
        wait_until_ready(place)
        write_config(place, model_port)
        end(place, signal.SIGHUP)
        yield place
    finally:
        end(place, signal.SIGKILL)


def write_config(place: Place, model_port: int, *more_keys: str) -> None:
    """The gateway's configuration."""
    tenants = {KEYS["first"]: "one", KEYS["second"]: "two", **dict.fromkeys(more_keys, "one")}
    keys = "\n".join(f'"{key}" = "{tenant}"' for key, tenant in tenants.items())
    (place.folder / "gateway.toml").write_text(
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


def start(place: Place) -> None:
    """Start the gateway in a process of its own, once the one before has let go of the store; return at once."""
    with suppress(FileNotFoundError):
        wait_until_gone(int((place.folder / "pid").read_text()))
    more = dict(line.split("=", 1) for line in (place.folder / "environ").read_text().splitlines())
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")},
        "GATEWAY_CONFIG": f"{place.folder / 'gateway.toml'}",
        "GATEWAY_STORE": f"sqlite:///{place.folder / 'gateway.db'}",
        "GATEWAY_PORT": f"{place.port}",
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
    with (place.folder / "gateway.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cmdc_gateway", "serve"], env=environ, stdout=log, stderr=log, start_new_session=True
        )
    (place.folder / "pid").write_text(f"{process.pid}")


def end(place: Place, number: signal.Signals) -> None:
    """Send the gateway a signal, if it still runs."""
    with suppress(ProcessLookupError):
        os.kill(int((place.folder / "pid").read_text()), number)


def wait_until_gone(pid: int, *, within: float = 10) -> None:
    """Return once this process has ended. It closes its doors some time before, and serves nobody meanwhile."""
    deadline = time.monotonic() + within
    with suppress(FileNotFoundError, ProcessLookupError):  # the latter, if it ends while this is read
        while time.monotonic() < deadline:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z"):
                return  # whoever started it has not asked for its status
            time.sleep(0.02)


def wait_until_ready(place: Place, *, within: float = 60) -> None:
    """Return once /readyz is 200."""
    deadline = time.monotonic() + within
    with httpx.Client(trust_env=False, timeout=5) as client:
        while True:
            try:
                if client.get(f"{place.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline:
                raise SystemExit(f"the gateway does not start:\n{(place.folder / 'gateway.log').read_text()[-2000:]}")
            time.sleep(0.05)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
