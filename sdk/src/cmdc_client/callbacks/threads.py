"""Runs blocking functions without blocking the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Raised:
    error: Exception


async def run_in_thread(function: Callable[[], T]) -> T:
    """Call a function in a daemon thread of its own, and return its result or raise its exception.

    The loop's thread pool is not used: it has few threads, which name resolution needs too, and Python waits for them
    when it exits. With a daemon thread, a tool that hangs blocks nothing else.
    """
    future: Future[T | _Raised] = Future()
    future.set_running_or_notify_cancel()  # the thread cannot be cancelled, so neither must the future be

    def work() -> None:
        # An exception is passed as a value, because an asyncio future does not accept StopIteration.
        try:
            future.set_result(function())
        except Exception as error:  # noqa: BLE001 - raised again in the event loop
            future.set_result(_Raised(error))
        except BaseException as error:  # noqa: BLE001 - a tool must not end the program that serves it
            future.set_result(_Raised(RuntimeError(f"{type(error).__name__}: {error}")))

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="cmdc-tool", daemon=True).start()
    result = await asyncio.wrap_future(future)
    if isinstance(result, _Raised):
        raise result.error
    return result
