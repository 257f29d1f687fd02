"""A target that cannot be tested is reported in one sentence that says what to change, with exit status 2."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cmdc_conformance import Keys, Options, Target, TargetError, run_suite_async
from cmdc_conformance.__main__ import main
from cmdc_conformance.drivers.http_server import Handler, HttpServer, Request, Response

GOOD = """
[target]
url = "http://127.0.0.1:4000/"
driver = "model"
model = "conformance:model"
capabilities = ["abort"]

[keys]
first = "key-1"
second = "key-2"

[limits]
body_bytes = 1000

[hooks]
kill = "kill -9 1"

[timing]
scale = 2

[approval]
tool = "shell"
session = { tools = ["shell"] }
"""


def test_a_target_file_is_parsed(tmp_path: Path) -> None:
    file = tmp_path / "target.toml"
    file.write_text(GOOD)

    target = Target.read(file).checked()

    assert (target.url, target.model, target.keys.second) == ("http://127.0.0.1:4000", "conformance:model", "key-2")
    assert (target.limits.body_bytes, target.hooks.kill, target.timing.seconds) == (1000, "kill -9 1", 20)
    assert (target.approval.tool, target.approval.session, target.capabilities) == (
        "shell",
        {"tools": ["shell"]},
        ("abort",),
    )


def test_the_command_line_takes_precedence_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "target.toml"
    file.write_text(GOOD)

    target = Target.read(file).with_options(url="http://127.0.0.1:5000", key="other", second_key=None)

    assert (target.url, target.keys.first, target.keys.second) == ("http://127.0.0.1:5000", "other", "key-2")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[target", "is not TOML"),
        ("[colour]", "unknown section [colour]"),
        ("[target]\ncolour = 1", "unknown setting 'colour'"),
        ("[keys]\nfirst = 1", "1 is not a string"),
        ("[limits]\nbody_bytes = -1", "-1 is not a non-negative integer"),
        ("[timing]\nscale = true", "True is not a number"),
        ("target = 1", "must be a table"),
        ("[target]\ncapabilities = [1]", "must be a list of strings"),
        ("", "no server given"),
        ('[target]\nurl = "http://127.0.0.1:1"', "no API key given"),
        ('[target]\nurl = "127.0.0.1"\n[keys]\nfirst = "k"', "is not a server URL"),
        ('[target]\nurl = "http://a:b@127.0.0.1"\n[keys]\nfirst = "k"', "must not contain credentials"),
        ('[target]\nurl = "http://127.0.0.1"\ndriver = "magic"\n[keys]\nfirst = "k"', "unknown driver 'magic'"),
        ('[target]\nurl = "http://127.0.0.1"\ndriver = "model"\n[keys]\nfirst = "k"', "needs `model`"),
        ('[target]\nurl = "http://127.0.0.1"\n[keys]\nfirst = "k k"', "visible ASCII"),
        ('[target]\nurl = "http://127.0.0.1"\n[keys]\nfirst = "k"\n[timing]\nscale = 0', "greater than 0"),
    ],
)
def test_an_invalid_target_file_is_one_sentence_and_exit_2(
    text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "target.toml"
    file.write_text(text)

    status = main(["--target", f"{file}"])

    message = capsys.readouterr().err
    assert status == 2
    assert sentence in message
    assert message.startswith("cmdc-conformance: ")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--target", "no-such-file.toml"], "cannot be read"),
        (["--only", "HTTP-99"], "unknown requirement 'HTTP-99'"),
        (["--profile", "everything"], "unknown profile 'everything'"),
        (["--baseline", "no-such-file.toml"], "cannot read"),
        (["--replay", "no-such-file.json"], "cannot replay"),
        ([], "does not respond to GET /healthz: is the server running"),
    ],
)
def test_invalid_arguments_are_one_sentence_and_exit_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["--url", "http://127.0.0.1:1", "--key", "k", *arguments])

    message = capsys.readouterr().err
    assert status == 2
    assert sentence in message
    assert message.count("\n") == 1


@asynccontextmanager
async def serving(handler: Handler) -> AsyncGenerator[str]:
    async with HttpServer(handler) as server:
        yield f"http://127.0.0.1:{server.port}"


async def error_for(handler: Handler, **options: float) -> str:
    async with serving(handler) as url:
        target = Target.parse({"target": {"url": url}, "keys": {"first": "a-key"}, "timing": options})
        with pytest.raises(TargetError) as error:
            await run_suite_async(target, Options(via="raw"))
        return str(error.value)


async def test_another_server_is_not_a_gateway() -> None:
    async def page(request: Request) -> Response:
        return Response(200, b"<h1>It works!</h1>", {"Content-Type": "text/html"})

    assert "is not a gateway" in await error_for(page)


async def test_a_server_that_knows_every_session_is_not_a_gateway() -> None:
    async def everything(request: Request) -> Response:
        return Response.json({"status": "ok"})

    assert "returned 200 for an unknown session" in await error_for(everything)


async def test_a_rejected_key_is_reported_without_the_key() -> None:
    async def closed(request: Request) -> Response:
        return (
            Response.json({"status": "ok"})
            if request.path == "/healthz"
            else Response.json({"error": "unauthorized"}, 401)
        )

    message = await error_for(closed)
    assert "rejects the key of --key" in message
    assert "a-key" not in message


async def test_a_server_that_is_too_slow_does_not_respond() -> None:
    async def slow(request: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    assert "does not respond to GET /healthz" in await error_for(slow, deadline=0.2)


async def test_via_sdk_without_the_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmdc_conformance.run.options.client_is_installed", lambda: False)

    with pytest.raises(TargetError, match="install cmdc-client"):
        await run_suite_async(Target("http://127.0.0.1:1", Keys("k")), Options(via="sdk"))
