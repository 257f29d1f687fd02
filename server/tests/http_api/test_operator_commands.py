"""The operator commands `keys new`, `keys list` and `audit`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from cmdc_gateway.__main__ import main
from cmdc_gateway.store.rows import AuditRow
from cmdc_gateway.store.sqlite import SqliteStore
from cmdc_gateway.store.writes import AppendAudit
from cmdc_gateway.tenancy.keys import KeyRing

NOON = 1_764_158_400_000  # 2025-11-26T12:00:00Z
APPROVED = AuditRow(NOON, "acme", "s1", "key_1", "approved", "apr_1", "d" * 64, b'{"tool":"shell"}')
ROWS = [
    AuditRow(NOON - 1000, "", "", "", "keys_loaded", detail=b'{"keys":["key_1"]}'),
    APPROVED,
    replace(APPROVED, tenant="globex", key_id="key_2", at=NOON + 1, action="rejected"),
    replace(APPROVED, session_id="s2", key_id="", at=NOON + 60_000, action="expired"),
]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings from the environment, and an empty working directory."""
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def store() -> str:
    """The URL of a store whose audit log has these rows."""

    async def fill() -> None:
        store = SqliteStore(Path("gateway.db"))
        await store.open()
        await store.commit([AppendAudit(row) for row in ROWS])
        await store.close()

    asyncio.run(fill())
    return "sqlite:///gateway.db"


def test_a_new_key_belongs_to_the_given_tenant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", "--tenant", 'Ünïted "Tenants"']) == 0

    printed = capsys.readouterr().out
    key = printed.splitlines()[0].removeprefix("key      ")
    configured = tomllib.loads(printed[printed.index("[api_keys]") :])["api_keys"]
    principal = KeyRing(configured).principal(key)
    assert principal is not None
    assert principal.tenant == 'Ünïted "Tenants"'
    assert re.fullmatch(r"cmdc_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", key)


@pytest.mark.parametrize("tenant", ["", "a\nb", "\x1b[31m"])
def test_a_key_for_a_tenant_with_an_unprintable_name_is_rejected(
    capsys: pytest.CaptureFixture[str], tenant: str
) -> None:
    assert main(["keys", "new", "--tenant", tenant]) == 2

    error = f"cmdc-gateway: --tenant: {tenant!r} is not a valid name; it must be printable and not empty\n"
    assert capsys.readouterr() == ("", error)


def test_keys_are_listed_by_key_id_only(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Neither a key nor its hash is printed."""
    keys = {"hush-hush": "acme", f"sha256:{'a' * 64}": "acme", "third": "globex"}
    (tmp_path / "gateway.toml").write_text("[api_keys]\n" + "\n".join(f'"{k}" = "{t}"' for k, t in keys.items()))

    assert main(["keys", "list", "--config", "gateway.toml"]) == 0

    printed, errors = capsys.readouterr()
    assert [line.split() for line in printed.splitlines()] == [
        ["keyId", "tenant"],
        *([principal.key_id, principal.tenant] for principal in KeyRing(keys).principals()),
    ]
    assert errors == ""
    assert "hush" not in printed


def test_the_audit_log_is_printed_as_a_table(capsys: pytest.CaptureFixture[str], store: str) -> None:
    assert main(["audit", "--store", store]) == 0

    printed, errors = capsys.readouterr()
    assert errors == ""
    assert printed.splitlines() == [
        "when                      tenant  session  who         what         on     digest        more",
        "2025-11-26T11:59:59.000Z  -       -        the server  keys_loaded  -      -             keys=key_1",
        "2025-11-26T12:00:00.000Z  acme    s1       key_1       approved     apr_1  dddddddddddd  tool=shell",
        "2025-11-26T12:00:00.001Z  globex  s1       key_2       rejected     apr_1  dddddddddddd  tool=shell",
        "2025-11-26T12:01:00.000Z  acme    s2       the server  expired      apr_1  dddddddddddd  tool=shell",
    ]


def test_json_output_has_every_member_of_a_row(
    capsys: pytest.CaptureFixture[str], store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_STORE", f"{store}?durability=disk")

    assert main(["audit", "--json"]) == 0

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["n"] for line in lines] == [1, 2, 3, 4]
    assert lines[1] == {
        "n": 2,
        "at": NOON,
        "tenant": "acme",
        "sessionId": "s1",
        "keyId": "key_1",
        "action": "approved",
        "subject": "apr_1",
        "digest": "d" * 64,
        "detail": {"tool": "shell"},
    }


def test_the_audit_log_is_printed_while_a_gateway_has_the_store_open(
    capsys: pytest.CaptureFixture[str], store: str
) -> None:
    async def print_while_open() -> int:
        opened = SqliteStore(Path("gateway.db"))
        await opened.open()
        await opened.commit([AppendAudit(row) for row in ROWS * 1000])
        status = await asyncio.to_thread(main, ["audit", "--json", "--store", store])
        await opened.close()
        return status

    assert asyncio.run(print_while_open()) == 0

    assert len(capsys.readouterr().out.splitlines()) == 1001 * len(ROWS)


@pytest.mark.parametrize(
    ("conditions", "numbers"),
    [
        (["--tenant", "acme"], [2, 4]),
        (["--session", "s1"], [2, 3]),
        (["--key", "key_2"], [3]),
        (["--since", "2025-11-26T12:00:00.001"], [3, 4]),
        (["--since", "2025-11-26T13:01+01:00"], [4]),
        (["--last", "2"], [3, 4]),
        (["--last", "0"], []),
        (["--tenant", "acme", "--last", "1"], [4]),
        (["--tenant", "nobody"], []),
    ],
)
def test_only_the_selected_rows_are_printed(
    capsys: pytest.CaptureFixture[str], store: str, conditions: list[str], numbers: list[int]
) -> None:
    assert main(["audit", "--json", "--store", store, *conditions]) == 0

    assert [json.loads(line)["n"] for line in capsys.readouterr().out.splitlines()] == numbers


def test_control_characters_are_not_printed(capsys: pytest.CaptureFixture[str], store: str) -> None:
    async def add() -> None:
        opened = SqliteStore(Path("gateway.db"))
        await opened.open()
        await opened.commit([AppendAudit(replace(APPROVED, subject="\x1b[2J", detail=b'{"tool":"\\u009b0m"}'))])
        await opened.close()

    asyncio.run(add())
    main(["audit", "--store", store])

    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("memory:", "GATEWAY_STORE: a memory: store cannot be read from outside the process of its gateway"),
        ("sqlite:///nowhere.db", "GATEWAY_STORE: the store {folder}/nowhere.db does not exist"),
        ("postgres://db", "GATEWAY_STORE: invalid store URL 'postgres://db': "),
    ],
)
def test_a_store_that_cannot_be_read_is_reported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: str, message: str
) -> None:
    assert main(["audit", "--store", store]) == 2

    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors.startswith(f"cmdc-gateway: {message.format(folder=tmp_path)}")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_may_close_the_pipe_early(store: str) -> None:
    """`cmdc-gateway audit | head -1` prints no error."""
    command = f"{sys.executable} -m cmdc_gateway audit --store {store} | true; exit ${{PIPESTATUS[0]}}"
    process = asyncio.run(_shell(command))

    assert process == (0, b"")


async def _shell(command: str) -> tuple[int | None, bytes]:
    process = await asyncio.create_subprocess_exec("bash", "-c", command, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(30):
        _, errors = await process.communicate()
    return process.returncode, errors
