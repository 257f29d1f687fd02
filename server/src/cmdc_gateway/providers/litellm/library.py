"""The litellm library: importing it, configuring it, and preparing it for the first call.

Importing it takes seconds and 180 MB of memory, so this happens once, in a thread, when the first model that needs it is
prepared.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import os
import sys
from typing import Any

import httpx

_RESPONSE = (
    b'data: {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "x", "choices": '
    b'[{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
)


def is_loaded() -> bool:
    """Whether litellm has been imported."""
    return load.cache_info().currsize > 0


@functools.cache
def load() -> Any:
    """Import and configure litellm. Blocks for seconds the first time."""
    # litellm reads these when it is imported: no price list from the network, no `.env` from the working directory.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_MODE"] = "PRODUCTION"
    litellm: Any = importlib.import_module("litellm")
    litellm.telemetry = False
    litellm.suppress_debug_info = True  # no advertisements on stdout
    litellm.disable_token_counter = True  # may download a tokenizer; `estimated_usage` replaces it
    litellm.disable_aiohttp_transport = True  # its sessions outlive a cancelled call
    litellm.REPEATED_STREAMING_CHUNK_LIMIT = sys.maxsize  # a model may repeat a word any number of times
    # Their logs contain prompts, keys, and URLs with keys.
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    for name in ("openai", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return litellm


@functools.cache
def warm_up() -> None:
    """Make a call that never reaches the network: the first call imports modules for another second. Blocks."""
    litellm, openai = load(), importlib.import_module("openai")

    async def call() -> None:
        response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=_RESPONSE)
        async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: response)) as http:
            client = openai.AsyncOpenAI(api_key="none", base_url="http://localhost", http_client=http)
            tool = {"type": "function", "function": {"name": "x", "description": "", "parameters": {"type": "object"}}}
            messages = [{"role": "user", "content": ""}]
            stream = await litellm.acompletion("openai/x", messages, client=client, tools=[tool], stream=True)
            async for _ in stream:
                pass

    asyncio.run(call())


async def close_connections() -> None:
    """Close litellm's idle connections. They are opened again when a model is called."""
    if is_loaded():
        litellm = load()
        await litellm.close_litellm_async_clients()
        litellm.in_memory_llm_clients_cache.flush_cache()
