"""What takes another process to test: kill -9, the lock, a full disk."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cmdc_gateway.store.errors import StoreUnavailable
from cmdc_gateway.store.rows import SessionKey
from cmdc_gateway.store.sqlite import SqliteStore

HERE = Path(__file__).parent


@contextmanager
def committing(path: Path) -> Generator["subprocess.Popen[bytes]"]:
    program = [sys.executable, str(HERE / "committer.py"), str(path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def read_reports(process: "subprocess.Popen[bytes]", at_least: int) -> list[bytes]:
    assert process.stdout
    return [process.stdout.readline() for _ in range(at_least)]


async def test_kill_9_loses_nothing_that_was_reported_as_committed(tmp_path: Path) -> None:
    """DUR-1."""
    path = tmp_path / "store.db"
    reported: dict[SessionKey, int] = {}
    for kill in range(5):
        with committing(path) as process:
            reports = await asyncio.to_thread(read_reports, process, 200 + 37 * kill)
            process.send_signal(signal.SIGKILL)
            rest, _ = await asyncio.to_thread(process.communicate)
        for report in [*reports, *rest.splitlines(keepends=True)]:
            assert report.endswith(b"\n")
            number, last_seq = report.decode().split()
            reported[SessionKey("acme", f"s{number}")] = int(last_seq)

        store = SqliteStore(path)
        await store.open()
        commits = 0
        for key, last_seq in reported.items():
            bounds = await store.log_bounds(key)
            assert bounds
            assert bounds[2] >= last_seq
            events = await store.events(key, 0, bounds[2] + 1, 1 << 30)
            assert [(event.seq, event.data) for event in events] == [
                (seq, b'{"delta":"%d"}' % seq) for seq in range(1, bounds[2] + 1)
            ]
            messages = await store.messages(key)
            assert [message.content for message in messages] == [
                f"up to {n}" for n in range(3, len(messages) * 3 + 1, 3)
            ]
            assert bounds[2] // 3 == len(messages)
            commits += len(messages)
        # Commits are atomic: each added one prompt and one message.
        assert [row.prompts for row in await store.usage("acme")] == [commits]
        await store.close()


async def test_a_file_is_locked_until_its_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    (tmp_path / "other name.db").symlink_to(path)
    with committing(path) as process:
        await asyncio.to_thread(read_reports, process, 1)

        for name in ("store.db", "other name.db"):
            with pytest.raises(StoreUnavailable, match=r"store\.db is in use by another gateway"):
                await SqliteStore(tmp_path / name).open()

    store = SqliteStore(path)
    await store.open()
    await store.close()


async def test_a_full_disk_is_reported_and_the_store_recovers(tmp_path: Path) -> None:
    """DUR-5."""
    program = [sys.executable, str(HERE / "disk_full.py"), str(tmp_path / "store.db")]
    run = await asyncio.to_thread(subprocess.run, program, capture_output=True, text=True, check=False)

    assert (run.returncode, run.stderr) == (0, "")
    down, recovered = run.stdout.splitlines()
    assert "store.db cannot be used: " in down
    assert recovered.startswith("recovered after ")
