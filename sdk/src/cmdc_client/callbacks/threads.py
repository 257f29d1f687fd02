"""Running what would hold up the event loop."""

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


async def in_thread(function: Callable[[], T]) -> T:
    """Call it in a daemon thread of its own.

    Not in the loop's pool: that has a handful of threads, which others need to look up names, and a program could not end
    before the last of them has. Here a tool that hangs holds up nobody.
    """
    future: Future[T | _Raised] = Future()
    future.set_running_or_notify_cancel()  # nothing can take it back, so nobody may cancel it

    def work() -> None:
        # An error is handed over as a value: an asyncio future would not take a StopIteration.
        try:
            future.set_result(function())
        except Exception as error:  # noqa: BLE001 - it is raised again, on the other side
            future.set_result(_Raised(error))
        except BaseException as error:  # noqa: BLE001 - a tool must not end the program that serves it
            future.set_result(_Raised(RuntimeError(f"{type(error).__name__}: {error}")))

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="cmdc-tool", daemon=True).start()
    result = await asyncio.wrap_future(future)
    if isinstance(result, _Raised):
        raise result.error
    return result
