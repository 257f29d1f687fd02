"""What the server says to its operator goes to a disk that may be full, too; that must not cost a client anything."""

import errno
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import structlog
from cmdc_gateway import logs


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


class Full(io.StringIO):
    """A file on a disk that is full."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    flush = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))


@pytest.mark.parametrize("method", ["info", "error", "exception"])
def test_a_line_that_cannot_be_written_is_let_go(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """DUR-5: else the refusal of a full disk would itself fail, with 500."""
    monkeypatch.setattr(sys, "stderr", Full())
    logs.configure("info")

    getattr(structlog.get_logger("test"), method)("commit_failed", reason="the disk is full")


def test_a_line_that_can_be_written_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = (tmp_path / "log").open("w", buffering=1)
    monkeypatch.setattr(sys, "stderr", file)
    logs.configure("info")

    structlog.get_logger("test").info("commit_failed", reason="the disk is full")

    file.close()
    assert '"reason": "the disk is full", "event": "commit_failed"' in (tmp_path / "log").read_text()
