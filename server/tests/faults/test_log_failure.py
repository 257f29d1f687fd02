"""A log that cannot be written, because its disk is full, does not affect clients."""

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
def restore_logging() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


class FullDisk(io.StringIO):
    """A file on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    flush = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))


@pytest.mark.parametrize("method", ["info", "error", "exception"])
def test_a_line_that_cannot_be_written_is_dropped(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """DUR-5: otherwise the 503 of a full disk would become a 500."""
    monkeypatch.setattr(sys, "stderr", FullDisk())
    logs.configure("info")

    getattr(structlog.get_logger("test"), method)("commit_failed", reason="the disk is full")


def test_a_line_that_can_be_written_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = (tmp_path / "log").open("w", buffering=1)
    monkeypatch.setattr(sys, "stderr", file)
    logs.configure("info")

    structlog.get_logger("test").info("commit_failed", reason="the disk is full")

    file.close()
    assert '"reason": "the disk is full", "event": "commit_failed"' in (tmp_path / "log").read_text()
