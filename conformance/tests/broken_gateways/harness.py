"""Runs the suite against gateways that have everything the suite needs to exercise every requirement."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import socket
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cmdc_conformance.reports.report import Report
from cmdc_conformance.run.options import Options
from cmdc_conformance.run.runner import run_suite
from cmdc_conformance.target import Hooks, Keys, Limits, Target, Timing

from broken_gateways.forkserver import ForkServer
from broken_gateways.mutants.auth import REVOKED_KEY

KEY = "key-of-the-first-tenant-0123456789"
SECOND_KEY = "key-of-the-second-tenant-0123456789"
LEAVING_KEY = "key-that-comes-and-goes-0123456789"
LIMITED_KEY = "key-whose-rate-is-used-up-0123456789"
ORIGIN = "https://app.example.com"
RPM = 30

# Below the ephemeral ports, which the system could assign between our check and the start of the gateway.
_PORTS = range(18_000, 32_000)
_MODEL = "suite:model"
_DEADLINE = 5.0
_SETTINGS = {
    "GATEWAY_RATE_LIMIT_RPM": "0",
    "GATEWAY_CALLBACK_ALLOW": "127.0.0.0/8",
    "GATEWAY_CORS_ORIGINS": ORIGIN,
    "GATEWAY_HEARTBEAT_MS": "500",
    "GATEWAY_GRACE_MS": "2000",
    "GATEWAY_HEADER_TIMEOUT_MS": "4000",
    "GATEWAY_BODY_TIMEOUT_MS": "4000",
    "GATEWAY_MODEL_RETRY_MS": "50,100",
    "GATEWAY_QUEUED_PROMPTS": "20",
    "GATEWAY_LOG_LEVEL": "error",
}
_LIMITS = Limits(
    header_timeout_ms=4000, body_timeout_ms=4000, queued_prompts=20, heartbeat_ms=500, grace_ms=2000, rpm=RPM
)


class Harness:
    """Runs the suite against gateways. Its methods may be called from several threads."""

    def __init__(self, forkserver: ForkServer, folder: Path) -> None:
        self._forkserver = forkserver
        self._folder = folder
        self._count = 0
        self._used: set[int] = set()
        self._lock = threading.Lock()

    def run(
        self, mutant: str | None, options: Options, *, driver: str = "scripted", deadline: float = _DEADLINE
    ) -> Report:
        """Run the suite against a mutant, or against the unpatched gateway if it is None."""
        with self.target(mutant, options.only, driver=driver, deadline=deadline) as target:
            return run_suite(target, options)

    @contextmanager
    def target(self, mutant: str | None, only: tuple[str, ...], *, driver: str, deadline: float) -> Generator[Target]:
        """Start a gateway and, if the requirements need them, one with a low rate limit and one that trims its log."""
        folder = self._new_folder(mutant or "unpatched")
        *ports, model_port = self._free_ports(4)
        config = _config(model_port)
        gateways: dict[str, dict[str, str]] = {"whole": {}}
        if _covers(only, "HTTP-9"):
            gateways["limited"] = {"GATEWAY_RATE_LIMIT_RPM": str(RPM)}
        if _covers(only, "SSE-7.trimmed"):
            gateways["trimmed"] = {"GATEWAY_REPLAY_EVENTS": "5"}
        with ExitStack() as stack:
            urls: dict[str, str] = {}
            for port, (name, more) in zip(ports, gateways.items(), strict=False):
                subfolder = folder / name
                (subfolder / "workspace").mkdir(parents=True)
                (subfolder / "gateway.toml").write_text(config)
                (subfolder / "without.toml").write_text(config)
                (subfolder / "with.toml").write_text(_config(model_port, LEAVING_KEY))
                settings = {
                    **_SETTINGS,
                    "GATEWAY_PORT": str(port),
                    "GATEWAY_STORE": f"sqlite:///{subfolder}/gateway.db",
                    "GATEWAY_WORKSPACE": str(subfolder / "workspace"),
                    "GATEWAY_CONFIG": str(subfolder / "gateway.toml"),
                    "SUITE_MODEL_KEY": "not-needed",
                    **more,
                }
                urls[name] = stack.enter_context(self._forkserver.start(mutant, subfolder, settings)).url
            yield Target(
                url=urls["whole"],
                keys=Keys(KEY, SECOND_KEY, REVOKED_KEY, LIMITED_KEY, LEAVING_KEY),
                driver="model" if driver == "model" else "scripted",
                model=_MODEL if driver == "model" else None,
                model_listen=f"127.0.0.1:{model_port}",
                limited_url=urls.get("limited"),
                trimmed_url=urls.get("trimmed"),
                origin=ORIGIN,
                limits=_LIMITS,
                hooks=self._hooks(folder / "whole"),
                timing=Timing(deadline=deadline),
            )
        _check_patches(folder)
        shutil.rmtree(folder)

    def _hooks(self, folder: Path) -> Hooks:
        start = self._forkserver.start_command(folder)
        stop, kill, hang_up = (f"kill -{name} $(cat '{folder}/pid') || true" for name in ("TERM", "KILL", "HUP"))
        admit, revoke = (
            f"cp '{folder}/{config}.toml' '{folder}/gateway.toml' && {hang_up}" for config in ("with", "without")
        )
        return Hooks(start=start, stop=stop, kill=kill, restart=f"{kill} && {start}", admit=admit, revoke=revoke)

    def _free_ports(self, count: int) -> list[int]:
        """Ports that are free and were not returned before."""
        ports: list[int] = []
        with self._lock:
            while len(ports) < count:
                port = secrets.choice(_PORTS)  # Hypothesis seeds `random`
                with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
                    ports += [port] if port not in self._used else []
                    self._used.add(port)
        return ports

    def _new_folder(self, name: str) -> Path:
        with self._lock:
            self._count += 1
            folder = self._folder / f"{self._count}-{name}"
        folder.mkdir()
        return folder


def _check_patches(folder: Path) -> None:
    """Raise RuntimeError if a gateway failed because of an error in its patch, rather than because of its fault."""
    for log in folder.rglob("gateway.log"):
        text = log.read_text(errors="replace")
        error = re.search(r"(?:TypeError: [^\n]* argument|AttributeError: |NameError: )[^\n]*", text)
        if error and "broken_gateways" in text:
            raise RuntimeError(f"the patch failed: {error[0][:300]}")


def _covers(only: tuple[str, ...], rule: str) -> bool:
    return not only or any(requirement.startswith(rule) for requirement in only)


def _config(model_port: int, *more_keys: str) -> str:
    more = "\n".join(f'"{key}" = "default"' for key in more_keys)
    return f"""
[api_keys]
{more}
"{KEY}" = "default"
"{SECOND_KEY}" = "other"
"{LIMITED_KEY}" = "limited"

[models."{_MODEL}"]
model = "openai/scripted"
api_base = "http://127.0.0.1:{model_port}/v1"
api_key_env = "SUITE_MODEL_KEY"

[tools]
offered = ["read_file", "list_dir", "glob", "grep", "write_file", "shell", "ask_user"]
approval = []
"""
