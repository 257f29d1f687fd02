"""The command `cmdc-gateway`. It checks the platform before it imports anything that needs POSIX."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

_POSIX_MODULES = ("fcntl", "resource")
_UNSUPPORTED = (
    "cmdc-gateway: this platform is not supported; the server runs on Linux and macOS. "
    "On Windows, run it under WSL or in a container."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; 1 on an unsupported platform."""
    if not _has_posix_modules():
        print(_UNSUPPORTED, file=sys.stderr)
        return 1
    from cmdc_gateway.cli import main as run  # noqa: PLC0415 - needs the POSIX modules

    return run(argv)


def _has_posix_modules() -> bool:
    try:
        for name in _POSIX_MODULES:
            import_module(name)
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    raise SystemExit(main())
