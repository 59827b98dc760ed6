"""Films read and prepared by threads while the network works on the batch before."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

_AHEAD: Final = 2  # batches that are being prepared
_MOST_THREADS: Final = 16

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def prefetched(batches: Iterable[Sequence[Item]], load: Callable[[Item], Loaded]) -> Iterator[list[Loaded]]:
    """What is loaded of each batch, in their order, two of them being prepared while one is used.

    Parameters
    ----------
    load
        Called with one item, from several threads. What it raises is raised here, in the place of its batch.
    """
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="films")
    todo = iter(batches)
    under_way: deque[list[Future[Loaded]]] = deque()

    def start(count: int) -> None:
        for batch in itertools.islice(todo, count):
            under_way.append([pool.submit(load, item) for item in batch])

    try:
        start(_AHEAD)
        while under_way:
            loaded = [future.result() for future in under_way.popleft()]
            start(1)
            yield loaded
    finally:
        pool.shutdown(cancel_futures=True)


def in_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """The items in their order, `size` together; the last ones are fewer."""
    return (items[start : start + size] for start in range(0, len(items), size))
