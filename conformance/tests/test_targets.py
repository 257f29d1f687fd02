"""Targets that cannot be judged get one sentence that says what to do, and exit status 2."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cmdc_conformance import Keys, Options, Target, TargetError, judge
from cmdc_conformance.__main__ import main
from cmdc_conformance.serving import Handler, HttpServer, Request, Response

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


def test_a_target_file_says_all_that_it_can_say(tmp_path: Path) -> None:
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


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "target.toml"
    file.write_text(GOOD)

    target = Target.read(file).with_options(url="http://127.0.0.1:5000", key="other", second_key=None)

    assert (target.url, target.keys.first, target.keys.second) == ("http://127.0.0.1:5000", "other", "key-2")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[target", "is not TOML"),
        ("[colour]", "no section [colour]"),
        ("[target]\ncolour = 1", "there is no 'colour'"),
        ("[keys]\nfirst = 1", "1 is not a string"),
        ("[limits]\nbody_bytes = -1", "-1 is not a whole number"),
        ("[timing]\nscale = true", "True is not a number"),
        ("target = 1", "is a table"),
        ("[target]\ncapabilities = [1]", "a list of strings"),
        ("", "no server is named"),
        ('[target]\nurl = "http://127.0.0.1:1"', "no API key is given"),
        ('[target]\nurl = "127.0.0.1"\n[keys]\nfirst = "k"', "is not the URL of a server"),
        ('[target]\nurl = "http://a:b@127.0.0.1"\n[keys]\nfirst = "k"', "its address alone"),
        ('[target]\nurl = "http://127.0.0.1"\ndriver = "magic"\n[keys]\nfirst = "k"', "there is no driver 'magic'"),
        ('[target]\nurl = "http://127.0.0.1"\ndriver = "model"\n[keys]\nfirst = "k"', "needs `model`"),
        ('[target]\nurl = "http://127.0.0.1"\n[keys]\nfirst = "k k"', "visible ASCII"),
        ('[target]\nurl = "http://127.0.0.1"\n[keys]\nfirst = "k"\n[timing]\nscale = 0', "greater than 0"),
    ],
)
def test_a_target_file_with_a_flaw_is_one_sentence_and_exit_2(
    text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "target.toml"
    file.write_text(text)

    status = main(["--target", f"{file}"])

    said = capsys.readouterr().err
    assert status == 2
    assert sentence in said
    assert said.startswith("cmdc-conformance: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--target", "no-such-file.toml"], "cannot be read"),
        (["--only", "HTTP-99"], "there is no requirement 'HTTP-99'"),
        (["--profile", "everything"], "there is no profile 'everything'"),
        (["--baseline", "no-such-file.toml"], "cannot be read"),
        (["--replay", "no-such-file.json"], "cannot be played again"),
        ([], "does not answer GET /healthz: is the server started"),
    ],
)
def test_arguments_that_do_not_work_are_one_sentence_and_exit_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["--url", "http://127.0.0.1:1", "--key", "k", *arguments])

    said = capsys.readouterr().err
    assert status == 2
    assert sentence in said
    assert said.count("\n") == 1


@asynccontextmanager
async def serving(handler: Handler) -> AsyncGenerator[str]:
    async with HttpServer(handler) as server:
        yield f"http://127.0.0.1:{server.port}"


async def sentence_about(handler: Handler, **options: float) -> str:
    async with serving(handler) as url:
        target = Target.parse({"target": {"url": url}, "keys": {"first": "a-key"}, "timing": options})
        with pytest.raises(TargetError) as flaw:
            await judge(target, Options(via="raw"))
        return str(flaw.value)


async def test_a_server_that_is_no_gateway_is_said_to_be_none() -> None:
    async def page(request: Request) -> Response:
        return Response(200, b"<h1>It works!</h1>", {"Content-Type": "text/html"})

    assert "is no gateway" in await sentence_about(page)


async def test_a_server_that_knows_every_session_is_said_to_be_no_gateway() -> None:
    async def everything(request: Request) -> Response:
        return Response.json({"status": "ok"})

    assert "an unknown session is answered 200" in await sentence_about(everything)


async def test_a_key_that_is_not_taken_is_said_not_to_be() -> None:
    async def closed(request: Request) -> Response:
        return (
            Response.json({"status": "ok"})
            if request.path == "/healthz"
            else Response.json({"error": "unauthorized"}, 401)
        )

    said = await sentence_about(closed)
    assert "does not take the key of --key" in said
    assert "a-key" not in said


async def test_a_server_that_is_too_slow_is_said_not_to_answer() -> None:
    async def slow(request: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    assert "does not answer GET /healthz" in await sentence_about(slow, deadline=0.2)


async def test_the_profile_sdk_without_the_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmdc_conformance.runner.client_is_installed", lambda: False)

    with pytest.raises(TargetError, match="install cmdc-client"):
        await judge(Target("http://127.0.0.1:1", Keys("k")), Options(via="sdk"))
