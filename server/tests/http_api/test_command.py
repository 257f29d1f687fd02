"""The command `cmdc-gateway`, as a process of its own: HTTP-7."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import cmdc_gateway
import httpx
import pytest
from cmdc_gateway.tenancy.keys import KeyRing
from cmdc_testkit.conversations import Conversation
from cmdc_testkit.gateways import KEY, OTHER_KEY, TENANTS, GatewayProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def start(folder: Path, *arguments: str, **environ: str) -> asyncio.subprocess.Process:
    inherited = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(cmdc_gateway.__file__).parents[1])}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cmdc_gateway",
        *arguments,
        cwd=folder,
        env={**inherited, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def finish(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    async with asyncio.timeout(20):
        printed, told = await process.communicate()
    return process.returncode, printed.decode(), told.decode()


@asynccontextmanager
async def running(folder: Path, *arguments: str, **environ: str) -> AsyncGenerator[tuple[str, asyncio.StreamReader]]:
    """A server on a free port: its URL and the stream of its further output."""
    process = await start(folder, "serve", "--port", "0", *arguments, **environ)
    assert process.stdout, "it is a pipe"
    try:
        async with asyncio.timeout(20):
            line = (await process.stdout.readline()).decode()
        found = re.fullmatch(r"CMDC Gateway listening on (http://\S+)\n", line)
        assert found, line
        yield found[1], process.stdout
    finally:
        process.send_signal(signal.SIGTERM)
        await finish(process)


def client(url: str, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, headers={"X-API-Key": key}, trust_env=False)


async def test_without_a_configured_key_one_is_generated_and_printed(tmp_path: Path) -> None:
    """HTTP-7: no route is open, and every start generates another key."""
    made: list[str] = []
    for _ in range(2):
        async with running(tmp_path, "--store", "memory:") as (url, output):
            line = (await output.readline()).decode()
            found = re.fullmatch(r"API key for this run \(set GATEWAY_API_KEYS to keep one\): (cmdc_\S+)\n", line)
            assert found, line
            made.append(found[1])
            async with client(url, made[-1]) as mine, client(url, made[0] + "x") as wrong:
                assert (await mine.get("/v1/usage")).json()["tenant"] == "default"
                assert (await wrong.get("/v1/usage")).status_code == 401

    assert made[0] != made[1]


async def test_a_configured_key_is_not_printed(tmp_path: Path) -> None:
    """HTTP-7, DUR-3: nor any other; and the server handles signals as soon as it prints its URL."""
    process = await start(tmp_path, "serve", "--port", "0", "--store", "memory:", GATEWAY_API_KEYS="hush-hush")
    assert process.stdout
    await process.stdout.readline()
    process.send_signal(signal.SIGTERM)

    status, printed, told = await finish(process)

    assert (status, printed) == (0, "")
    assert "hush" not in told


async def test_a_new_key_is_printed_with_its_configuration(tmp_path: Path) -> None:
    """The server is given the hash alone."""
    status, printed, told = await finish(await start(tmp_path, "keys", "new"))

    lines = printed.splitlines()
    key, key_id = lines[0].removeprefix("key      "), lines[1].removeprefix("keyId    ")
    (tmp_path / "gateway.toml").write_text(printed[printed.index("[api_keys]") :].replace('"default"', '"acme"'))
    assert (status, told) == (0, "")
    assert re.fullmatch(r"cmdc_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", key)
    assert [caller.key_id for caller in KeyRing({key: "x"}).principals()] == [key_id]
    async with (
        running(tmp_path, "--store", "memory:", "--config", "gateway.toml") as (url, _),
        client(url, key) as mine,
    ):
        assert (await mine.get("/v1/usage")).json()["tenant"] == "acme"


async def test_an_unusable_resource_at_startup_is_one_line(tmp_path: Path) -> None:
    """Exit status 2, without a traceback."""
    (tmp_path / "other.db").write_bytes(b"not a database" * 100)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = await asyncio.gather(
            *(
                finish(process)
                for process in (
                    await start(tmp_path, "serve", "--port", port, "--store", "memory:"),
                    await start(tmp_path, "serve", "--port", "0", "--store", "sqlite:///missing/a.db"),
                    await start(tmp_path, "serve", "--port", "0", "--store", "sqlite:///other.db"),
                    await start(tmp_path, "serve", "--port", "0", "--store", "memory:", GATEWAY_WORKSPACE="missing"),
                    await start(tmp_path, "serve", "--host", "0.0.0.0", "--port", "0", "--store", "memory:"),
                )
            )
        )

    assert [(status, printed, told.count("\n")) for status, printed, told in found] == [(2, "", 1)] * 5
    starts = [
        f"cmdc-gateway: GATEWAY_HOST, GATEWAY_PORT: cannot listen on 127.0.0.1:{port}: ",
        "cmdc-gateway: GATEWAY_",
        "cmdc-gateway: GATEWAY_STORE: ",
        "cmdc-gateway: GATEWAY_WORKSPACE: missing",
        "cmdc-gateway: GATEWAY_HOST: the server does not listen on 0.0.0.0, beyond this machine, without API keys; ",
    ]
    assert [told.startswith(start) for (_, _, told), start in zip(found, starts, strict=True)] == [True] * 5, found


@pytest.mark.parametrize("arguments", [(), ("serve", "--colour"), ("start",), ("keys",), ("serve", "now")])
async def test_an_unknown_command_prints_the_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    status, printed, told = await finish(await start(tmp_path, *arguments))

    assert (status, printed) == (2, "")
    assert told.startswith("usage: cmdc-gateway")


async def test_the_keys_are_reloaded_on_sighup(tmp_path: Path) -> None:
    """HTTP-7, WS-6: a removed key is rejected and its streams end; those of other keys continue."""
    async with GatewayProcess(tmp_path) as gateway, gateway.client(KEY) as kept, gateway.client(OTHER_KEY) as gone:
        theirs = await Conversation.begin(gone)
        mine = await Conversation.begin(kept)
        async with (
            gone.stream("GET", f"{theirs.path}/events", params={"follow": "true"}) as ending,
            kept.stream("GET", f"{mine.path}/events") as staying,
        ):
            file = tmp_path / "gateway.toml"
            file.write_text(f'[api_keys]\n"{KEY}" = "default"\n"a-new-key" = "third"\n')
            gateway.send_signal(signal.SIGHUP)

            async with asyncio.timeout(10):
                assert [line async for line in ending.aiter_lines() if line and not line.startswith(":")] == []
            async with gateway.client("a-new-key") as third:
                assert (await third.get("/v1/usage")).json()["tenant"] == "third"
            assert (await gone.get("/v1/usage")).status_code == 401
            await mine.prompt("still there")
            async with asyncio.timeout(10):
                assert "event: agent_end" in [line async for line in staying.aiter_lines()]
        status, printed, _ = await finish(
            await start(tmp_path, "audit", "--json", "--store", f"sqlite:///{tmp_path / 'gateway.db'}")
        )
        rows = [json.loads(line) for line in printed.splitlines()]
        ids = {caller.tenant: caller.key_id for caller in KeyRing({**TENANTS, "a-new-key": "third"}).principals()}
        reloaded = [row["detail"] for row in rows if row["action"] == "keys_reloaded"]
        assert status == 0
        assert reloaded == [{"added": [ids["third"]], "revoked": [ids["other"]]}]


async def test_an_invalid_file_leaves_the_keys_unchanged(tmp_path: Path) -> None:
    """HTTP-7: on SIGHUP, the error is logged."""
    async with GatewayProcess(tmp_path) as gateway, gateway.client() as client:
        (tmp_path / "gateway.toml").write_text("[api_keys]\n'hush hush' = 'x'\n")
        gateway.send_signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while "keys_not_reloaded" not in gateway.log():  # noqa: ASYNC110 - another process tells it no other way
                await asyncio.sleep(0.01)

        assert (await client.get("/v1/usage")).status_code == 200
        assert "hush" not in gateway.log()


@pytest.mark.parametrize("arguments", [("serve",), ("--help",), ("keys", "new")])
async def test_without_posix_modules_the_command_names_the_supported_platforms(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    program = """if True:
        import sys

        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name in ("fcntl", "resource", "termios", "pwd", "grp", "uvloop"):
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        sys.meta_path.insert(0, Missing())
        from cmdc_gateway.__main__ import main

        raise SystemExit(main(sys.argv[1:]))
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, *arguments),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )

    error = (
        "cmdc-gateway: this platform is not supported; the server runs on Linux and macOS. "
        "On Windows, run it under WSL or in a container.\n"
    )
    assert await finish(process) == (1, "", error)
