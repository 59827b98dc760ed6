"""Films read and prepared by threads while the network works on the batch before."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

import torch

_AHEAD: Final = 2  # batches that are being prepared
_MOST_THREADS: Final = 16

Item = TypeVar("Item")


def prefetched(
    batches: Iterable[Sequence[Item]], load: Callable[[Item], torch.Tensor], *, pin: bool = False
) -> Iterator[torch.Tensor]:
    """The batches as stacked tensors, in their order, two of them being prepared while one is used.

    Parameters
    ----------
    load
        The tensor of one item; called from several threads. What it raises is raised here, in the place of its batch.
    pin
        Put the batches into memory that a GPU copies from without waiting.
    """
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="films")
    todo = iter(batches)
    under_way: deque[list[Future[torch.Tensor]]] = deque()

    def start(count: int) -> None:
        for batch in itertools.islice(todo, count):
            under_way.append([pool.submit(load, item) for item in batch])

    try:
        start(_AHEAD)
        while under_way:
            tensors = torch.stack([future.result() for future in under_way.popleft()])
            start(1)
            yield tensors.pin_memory() if pin else tensors
    finally:
        pool.shutdown(cancel_futures=True)
