"""Applies every mutant in a fork of its own, without starting a gateway, and prints those whose patch fails."""

from __future__ import annotations

import os
import sys

from broken_gateways.mutants import MUTANTS, Mutant


def main() -> int:
    """Return 1 if a patch fails."""
    failed = [name for name, mutant in MUTANTS.items() if not _applies(mutant)]
    sys.stdout.write("".join(f"{name}\n" for name in failed))
    return 1 if failed else 0


def _applies(mutant: Mutant) -> bool:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            mutant.apply()
            status = 0
        except Exception as error:  # noqa: BLE001 - the child reports any error and exits
            sys.stderr.write(f"{mutant.name}: {type(error).__name__}: {error}\n")
            sys.stderr.flush()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


if __name__ == "__main__":
    sys.exit(main())
