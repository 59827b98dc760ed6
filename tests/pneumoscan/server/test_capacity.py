from __future__ import annotations

import pytest

from pneumoscan.server.capacity import Capacity, CapacityOptions, Machine, plan

GB = 1_000_000_000
NOTHING = CapacityOptions()


def machine(cores: int, memory_gb: float | None = 1000.0, gpus: int = 0) -> Machine:
    return Machine(cores, None if memory_gb is None else int(memory_gb * GB), gpus)


@pytest.mark.parametrize("cores", [1, 2, 7, 64])
def test_on_a_cpu_each_core_gets_a_worker_with_one_thread_and_one_film(cores: int) -> None:
    assert plan(machine(cores), NOTHING) == Capacity(cores, 1, 1, 1, 32 * cores)


def test_where_memory_is_short_fewer_workers_share_the_cores() -> None:
    capacity = plan(machine(16, 6.5), NOTHING)  # four workers of 1.5 GB
    assert (capacity.workers, capacity.threads, capacity.queue) == (4, 4, 128)


def test_two_versions_share_the_memory_but_not_the_cores() -> None:
    assert plan(machine(4, 13), NOTHING, versions=2).workers == 4
    assert plan(machine(4, 6.5), NOTHING, versions=2) == Capacity(2, 2, 1, 1, 64)


@pytest.mark.parametrize("memory_gb", [0, 0.1, 1.4])
def test_there_is_always_one_worker(memory_gb: float) -> None:
    capacity = plan(machine(8, memory_gb), NOTHING, versions=3)
    assert (capacity.workers, capacity.threads) == (1, 8)


def test_memory_that_is_not_told_limits_nothing() -> None:
    assert plan(machine(8, None), NOTHING).workers == 8


def test_a_gpu_gets_two_workers_and_large_batches() -> None:
    assert plan(machine(16, gpus=1), NOTHING) == Capacity(2, 8, 64, 1, 512)
    assert plan(machine(16, gpus=4), NOTHING).workers == 8


def test_what_is_asked_for_wins() -> None:
    asked = CapacityOptions(workers=5, threads=3, batch_size=8, batch_delay_ms=20, queue=7)
    assert plan(machine(2, 1, gpus=1), asked) == Capacity(5, 3, 8, 20, 7)


def test_more_threads_for_each_worker_mean_fewer_workers() -> None:
    assert plan(machine(8), CapacityOptions(threads=4)).workers == 2
    assert plan(machine(2), CapacityOptions(threads=4)).workers == 1


def test_fewer_workers_mean_more_threads_for_each() -> None:
    assert plan(machine(8), CapacityOptions(workers=2)).threads == 4
    assert plan(machine(8), CapacityOptions(workers=16)).threads == 1


def test_the_jvm_may_take_what_its_queue_needs_and_a_quarter_of_the_memory_at_most() -> None:
    capacity = plan(machine(2, None), CapacityOptions(queue=64))
    assert capacity.heap_bytes(None) == capacity.heap_bytes(64 << 30) == 2 << 30
    assert capacity.heap_bytes(4 << 30) == 1 << 30
    assert capacity.heap_bytes(0) == 1 << 29
