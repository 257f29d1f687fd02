"""The published schemas, and a page to read them on (§3.11)."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI


def publish(app: FastAPI) -> None:
    pass
