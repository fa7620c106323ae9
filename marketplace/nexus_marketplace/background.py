"""Looking at a marketplace beside an event loop. Its thread is its own: a place that answers late takes none of those that others wait
for, and the end of the process does not wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run(call: Callable[[], T], name: str) -> T:
    """Return what the call returns, or raise what it raises. name: of the thread. A cancelled one goes on unheard until it is done."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return  # whoever asked has left
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]  # None is what a call without an error returned

    def work() -> None:
        result: T | None = None
        failed: BaseException | None = None
        try:
            result = call()
        except BaseException as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(tell, result, failed)

    threading.Thread(target=work, name=name, daemon=True).start()
    return await answer
