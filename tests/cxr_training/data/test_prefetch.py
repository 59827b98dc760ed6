"""Batches that threads prepare: in order, none lost, errors where they belong."""

from __future__ import annotations

import threading
import time

import pytest

from cxr_training.data.prefetch import prefetched


def test_batches_come_in_order_however_long_their_items_take() -> None:
    def load(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item

    batches = [[0, 1, 2], [3, 4], [5], [6, 7, 8]]
    assert [*prefetched(batches, load)] == batches


def test_an_item_that_fails_fails_in_the_place_of_its_batch() -> None:
    def load(item: int) -> int:
        if item == 3:
            raise ValueError("the third")
        return item

    batches = prefetched([[1], [2], [3], [4]], load)
    assert [next(batches) for _ in range(2)] == [[1], [2]]
    with pytest.raises(ValueError, match="the third"):
        next(batches)


def test_no_more_than_two_batches_are_read_ahead_and_no_thread_is_left() -> None:
    loaded: list[int] = []

    def load(item: int) -> int:
        loaded.append(item)
        return item

    before = threading.active_count()
    batches = prefetched([[n] for n in range(100)], load)
    next(batches)
    assert len(loaded) <= 3
    batches.close()
    assert threading.active_count() == before
