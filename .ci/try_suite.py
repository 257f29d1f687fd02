"""Run the installed wheel of the conformance suite against the installed wheel of the gateway.

    SUITE_ENVIRONMENT/bin/python -I .ci/try_suite.py GATEWAY_ENVIRONMENT/bin/cmdc-gateway

Each wheel has its own environment. The suite's must not contain any other package of this repository.
"""

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

KEYS = {"key-of-this-trial": "one", "another-tenants-key": "two"}
NOT_HERE = ("cmdc_client", "cmdc_gateway", "fastapi", "litellm")


def main() -> int:
    """Run the profile core; return the exit status."""
    unexpected = [name for name in NOT_HERE if find_spec(name) is not None]
    if unexpected:
        print(f"this environment must not contain {', '.join(unexpected)}")
        return 1
    suite = Path(sys.executable).with_name("cmdc-conformance")
    first, second = KEYS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = "\n".join(f'"{key}" = "{tenant}"' for key, tenant in KEYS.items())
        (folder / "gateway.toml").write_text(f"[api_keys]\n{keys}\n", encoding="utf-8")
        environ = {
            "PATH": os.environ["PATH"],
            "GATEWAY_CONFIG": f"{folder / 'gateway.toml'}",
            "GATEWAY_STORE": "memory:",
            "GATEWAY_WORKSPACE": f"{folder}",
            "GATEWAY_PORT": "0",
            "GATEWAY_RATE_LIMIT_RPM": "0",
            "GATEWAY_CALLBACK_ALLOW": "127.0.0.0/8",
        }
        with subprocess.Popen([sys.argv[1], "serve"], env=environ, stdout=subprocess.PIPE, text=True) as gateway:
            try:
                assert gateway.stdout is not None
                url = gateway.stdout.readline().split()[-1]
                options = ["--url", url, "--key", first, "--second-key", second, "--examples", "2", "--quiet"]
                return subprocess.run([suite, *options], check=False).returncode
            finally:
                gateway.terminate()


if __name__ == "__main__":
    sys.exit(main())
