"""One thread for everything that blocks on the kernel."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class WorkerThread:
    """Runs blocking calls one after the other, always in the same thread.

    Network namespaces belong to threads, and netlink sockets to the namespace in which they were opened: what was
    opened here is used here.
    """

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, call: Callable[[], T]) -> T:
        """Run `call` after all that came before it; when cancelled, what already runs is finished all the same."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def close(self, last: Callable[[], object]) -> None:
        """Finish what runs, then run `last`, and end the thread; blocks."""
        self._executor.submit(last).result()
        self._executor.shutdown()
