"""Killed at random moments, a training goes on and ends in the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxr.model.spec import sha256_of
from cxr_training.runs import CHECKPOINT
from tests.cxr_training.folders import write_manifest

ROOT = Path(__file__).parents[3]
SMALL = ["--weights", "random", "--arch", "resnet10", "--size", "64", "--device", "cpu", "--resume"]


def start(data: Path, run: Path, *more: str) -> subprocess.Popen[bytes]:
    """A training in a process group of its own, with one thread, as every try of it."""
    command = [sys.executable, "-m", "training.train", "--data", str(data), "--run", str(run), *SMALL, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainable", "more"),
    [
        ("head", ["--epochs", "300"]),
        ("layer4", ["--epochs", "4", "--patience", "4", "--batch-size", "4", "--save-every", "0"]),
        ("all", ["--epochs", "4", "--patience", "4", "--batch-size", "8", "--save-every", "0.3"]),
    ],
)
def test_killed_at_three_random_moments_the_weights_are_the_same(
    trainable: str, more: list[str], tmp_path: Path
) -> None:
    data, more = write_manifest(tmp_path / "data", 16), ["--trainable", trainable, *more]
    started = time.monotonic()
    assert start(data, tmp_path / "whole" / "run", *more).wait(timeout=300) == 0
    whole_s = time.monotonic() - started
    killed, run = 0, tmp_path / "killed" / "run"
    moments = random.Random(20)
    while killed < 3:
        process = start(data, run, *more)
        try:
            process.wait(timeout=moments.uniform(0.3, 0.95) * whole_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
        else:  # the machine was quicker than before: nothing was killed, so start again from nothing
            assert process.returncode == 0
            (run / "run.json").unlink()
            (run / CHECKPOINT).unlink()
    assert start(data, run, *more).wait(timeout=300) == 0
    assert sha256_of(run / CHECKPOINT) == sha256_of(tmp_path / "whole" / "run" / CHECKPOINT)
    assert (run / "history.csv").read_bytes() == (tmp_path / "whole" / "run" / "history.csv").read_bytes()
    assert not list(run.glob("*unfinished*")) + list(run.glob(".*partial"))
