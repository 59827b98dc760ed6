"""The kernel's files are laid out as a real system has them, in a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pneumoscan.server.capacity import cores, count_gpus, free_memory, machine

ALL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def put(root: Path, **files: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name.replace("__", ".")).write_text(text + "\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    put(tmp_path / "proc" / "self", cgroup="0::/user.slice/box")
    put(tmp_path / "proc", meminfo="MemTotal:  64 kB\nMemAvailable:    4000000 kB\nCached: 1 kB")
    return tmp_path / "proc"


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    (tmp_path / "cgroup" / "user.slice" / "box").mkdir(parents=True)
    return tmp_path / "cgroup"


def test_this_machine_has_cores_and_memory() -> None:
    here = machine()
    assert 1 <= here.cores <= ALL
    assert here.memory_bytes is None or here.memory_bytes > 0


def test_without_a_limit_the_affinity_counts(proc: Path, groups: Path) -> None:
    put(groups / "user.slice" / "box", cpu__max="max 100000")
    assert cores(proc, groups) == ALL


def test_half_a_core_is_one_and_the_tightest_group_around_counts(proc: Path, groups: Path) -> None:
    put(groups / "user.slice" / "box", cpu__max="max 100000")
    put(groups / "user.slice", cpu__max="50000 100000")
    assert cores(proc, groups) == 1


def test_a_part_of_a_core_is_not_another_worker(proc: Path, groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    put(groups / "user.slice" / "box", cpu__max="390000 100000")
    assert cores(proc, groups) == 3


def test_the_root_counts_where_the_groups_path_is_the_hosts(proc: Path, groups: Path) -> None:
    put(proc / "self", cgroup="0::/kubepods/of/the/host")
    put(groups, cpu__max="100000 100000", memory__max="3000", memory__current="1000")
    assert cores(proc, groups) == 1
    assert free_memory(proc, groups) == 2000


def test_version_1_of_the_groups_is_read_too(proc: Path, groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    put(proc / "self", cgroup="4:memory:/box\n1:cpu,cpuacct:/box\n0::/")
    put(groups / "cpu" / "box", **{"cpu__cfs_quota_us": "200000", "cpu__cfs_period_us": "100000"})
    put(groups / "cpu", **{"cpu__cfs_quota_us": "-1", "cpu__cfs_period_us": "100000"})
    put(groups / "memory" / "box", memory__limit_in_bytes="5000", memory__usage_in_bytes="4000")
    put(groups / "memory", memory__limit_in_bytes="9223372036854771712", memory__usage_in_bytes="4000")
    assert cores(proc, groups) == 2
    assert free_memory(proc, groups) == 1000


def test_cached_files_are_memory_that_can_be_had(proc: Path, groups: Path) -> None:
    files = {"memory__max": "9000", "memory__current": "8000", "memory__stat": "anon 2000\ninactive_file 5000"}
    put(groups / "user.slice" / "box", **files)
    assert free_memory(proc, groups) == 6000


def test_without_a_limit_the_machines_own_memory_counts(proc: Path, groups: Path) -> None:
    put(groups / "user.slice" / "box", memory__max="max", memory__current="8000")
    assert free_memory(proc, groups) == 4000000 * 1024


def test_a_system_without_these_files_says_nothing_about_memory(tmp_path: Path) -> None:
    assert free_memory(tmp_path, tmp_path) is None
    assert cores(tmp_path, tmp_path) == ALL


def put_program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_card_that_only_the_driver_knows_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe would give workers a card that torch cannot compute on."""
    put_program(tmp_path, "nvidia-smi", "echo GPU 0: a card")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "7"}  # a number that torch finds nothing under
    assert count_gpus(environment) == 0


@pytest.mark.parametrize("script", ["exit 9", "true"])
def test_a_driver_that_fails_or_lists_nothing_means_no_card(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_program(tmp_path, "nvidia-smi", script)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert count_gpus({}) == 0
