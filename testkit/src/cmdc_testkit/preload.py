"""Imported by the fork server: whatever forked gateways have in common is loaded and derived once, here."""

import tempfile
from pathlib import Path
from typing import Any

import structlog
from cmdc_gateway.app import create_app
from cmdc_gateway.settings import Settings

from cmdc_testkit.gateways import documents_derived_once

_SETTINGS: dict[str, Any] = {"store": "memory:", "workspace": Path(tempfile.gettempdir())}

with documents_derived_once():
    create_app(Settings(**_SETTINGS), environ={})
# An app configures logging. Each gateway is to do so itself.
structlog.reset_defaults()
