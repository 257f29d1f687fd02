"""Run the benchmarks.

python -m benchmarks                   the quick form, about two minutes
python -m benchmarks --full            all workloads, measured longer
python -m benchmarks 1 5               only these workloads
python -m benchmarks --check           exit with status 1 if a steady figure misses its target by more than half
python -m benchmarks --full --write    write the table into benchmarks/README.md
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

from benchmarks.figures import Figure, document, table
from benchmarks.machine import describe
from benchmarks.processes import pin_client

WORKLOADS = {
    1: "fan_out",
    2: "many_sessions",
    3: "requests",
    4: "turns",
    5: "model_turns",
    6: "sockets",
    7: "idle",
    8: "start",
    9: "growth",
    10: "client",
}
# Workloads of `--check`: those whose figures hardly depend on the load of the machine. A failing one is repeated.
GUARDED = (1, 3, 4, 5, 6, 7, 8)
_TRIES = 3
_FOLDER = Path(__file__).resolve().parent
_BEGIN, _END = "<!-- results -->\n", "<!-- end of results -->"


def main() -> int:
    """Return the exit status."""
    arguments = _arguments()
    machine = describe()
    pin_client()
    figures: list[Figure] = []
    for number in arguments.workloads or (GUARDED if arguments.check else WORKLOADS):
        figures += _measured(number, full=arguments.full, tries=_TRIES if arguments.check else 1)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(document(figures, machine, full=arguments.full), encoding="utf-8")
    if arguments.write:
        _write(figures, machine)
    regressed = [figure for figure in figures if figure.regressed] if arguments.check else []
    for figure in regressed:
        print(f"misses its target by more than half: {figure.what}: {figure.value:.2f} {figure.unit}", file=sys.stderr)
    return 1 if regressed else 0


def _measured(number: int, *, full: bool, tries: int) -> list[Figure]:
    """The figures of a workload. If some have regressed, measure again and keep the best of each."""
    module = importlib.import_module(f"benchmarks.workloads.{WORKLOADS[number]}")
    best: dict[str, Figure] = {}
    began = time.monotonic()
    for _ in range(tries):
        for figure in module.run(full=full):
            best[figure.what] = figure.better(best.get(figure.what))
            print(table([figure]).splitlines()[-1], flush=True)
        if not any(figure.regressed for figure in best.values()):
            break
    print(f"workload {number}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return list(best.values())


def _workload(text: str) -> int:
    # With `choices`, Python 3.11 would reject an empty list of workloads.
    if not text.isdecimal() or int(text) not in WORKLOADS:
        raise argparse.ArgumentTypeError(f"unknown workload {text!r}; use a number from 1 to {max(WORKLOADS)}")
    return int(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workloads", nargs="*", type=_workload, metavar="WORKLOAD", help="1 to 10 (default: all)")
    parser.add_argument("--full", action="store_true", help="measure all workloads, and longer")
    parser.add_argument(
        "--check", action="store_true", help="fail if a steady figure misses its target by more than half"
    )
    parser.add_argument("--write", action="store_true", help="write the table into the README")
    parser.add_argument(
        "--json", type=Path, default=_FOLDER / "results" / "latest.json", help="path of the JSON results"
    )
    return parser.parse_args()


def _write(figures: list[Figure], machine: dict[str, str]) -> None:
    readme = _FOLDER / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    described = "; ".join(f"{name} {value}" for name, value in machine.items())
    readme.write_text(f"{before}{_BEGIN}\n{described}.\n\n{table(figures)}\n\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
