"""A row that is updated to find out whether writes succeed."""

from __future__ import annotations

import sqlite3


def check(connection: sqlite3.Connection) -> None:
    """Write to the file."""
    connection.execute("UPDATE health SET writes = writes + 1")
