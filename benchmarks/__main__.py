"""Measure.

python -m benchmarks                   the quick form, about two minutes
python -m benchmarks --full            all of it
python -m benchmarks 1 5               only these workloads
python -m benchmarks --check           guard against regressions: exit 1 if a steady figure is worse than its bound by half
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
# What `--check` looks at: workloads whose figures a busy machine does not change much. One that fails is tried again.
GUARDED = (1, 3, 4, 5, 6, 7, 8)
_TRIES = 3
_FOLDER = Path(__file__).resolve().parent
_BEGIN, _END = "<!-- results -->\n", "<!-- end of results -->"


def main() -> int:
    """Return the exit status."""
    wanted = _arguments()
    machine = describe()
    pin_client()
    figures: list[Figure] = []
    for number in wanted.workloads or (GUARDED if wanted.check else WORKLOADS):
        figures += _measured(number, full=wanted.full, tries=_TRIES if wanted.check else 1)
    wanted.json.parent.mkdir(parents=True, exist_ok=True)
    wanted.json.write_text(document(figures, machine, full=wanted.full), encoding="utf-8")
    if wanted.write:
        _write(figures, machine)
    regressed = [figure for figure in figures if figure.regressed] if wanted.check else []
    for figure in regressed:
        print(f"worse than its bound by half: {figure.what}: {figure.value:.2f} {figure.unit}", file=sys.stderr)
    return 1 if regressed else 0


def _measured(number: int, *, full: bool, tries: int) -> list[Figure]:
    """A workload's figures; measured again, if some have regressed, and the best of each kept."""
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
    # Python 3.11's `choices` would refuse that none is named.
    if not text.isdecimal() or int(text) not in WORKLOADS:
        raise argparse.ArgumentTypeError(f"there is no workload {text!r}; they are numbered 1 to {max(WORKLOADS)}")
    return int(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workloads", nargs="*", type=_workload, metavar="WORKLOAD", help="1 to 10; left out: all")
    parser.add_argument("--full", action="store_true", help="measure longer, and all of it")
    parser.add_argument("--check", action="store_true", help="fail on a figure that is worse than its bound by half")
    parser.add_argument("--write", action="store_true", help="write the table into the README")
    parser.add_argument("--json", type=Path, default=_FOLDER / "results" / "latest.json", help="where the JSON goes")
    return parser.parse_args()


def _write(figures: list[Figure], machine: dict[str, str]) -> None:
    readme = _FOLDER / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    described = "; ".join(f"{name} {value}" for name, value in machine.items())
    readme.write_text(f"{before}{_BEGIN}\n{described}.\n\n{table(figures)}\n\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
