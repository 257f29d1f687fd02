"""`python -m cmdc_testkit.simulation SEED …` simulates worlds again."""

from __future__ import annotations

import sys

from cmdc_testkit.simulation.world import run

if __name__ == "__main__":
    for seed in sys.argv[1:]:
        sys.stdout.write(f"{run(int(seed))}\n")
