"""`python -m cmdc_gateway.testing.simulation SEED …` lives worlds through again."""

from __future__ import annotations

import sys

from cmdc_gateway.testing.simulation.world import run

if __name__ == "__main__":
    for seed in sys.argv[1:]:
        sys.stdout.write(f"{run(int(seed))}\n")
